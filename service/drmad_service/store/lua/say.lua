-- Says what a held job waits for, or '' when it no longer does. ARGV: id, fence, message
local id, fence, message = unpack(ARGV)
if fenced_out(id, fence) then return 'fenced' end
write_when_full()
redis.call('HSET', K.job .. id, 'message', message)
changed(id)
return 'ok'
