-- Appends log lines. ARGV: id, fence, number of lines kept, replica, then the lines
local id, fence, kept, replica = unpack(ARGV)
if fenced_out(id, fence) then return 'fenced' end
for i = 5, #ARGV do
  redis.call('XADD', part(id, 'logs'), 'MAXLEN', '~', kept, '*', 'replica', replica, 'text', ARGV[i])
end
return 'ok'
