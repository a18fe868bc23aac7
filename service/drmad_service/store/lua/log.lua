-- Appends log lines. ARGV: id, fence, number of lines kept, replica, source, then the lines
local id, fence, kept, replica, source = unpack(ARGV)
if fenced_out(id, fence) then return 'fenced' end
log_lines(id, kept, replica, source, 6)
return 'ok'
