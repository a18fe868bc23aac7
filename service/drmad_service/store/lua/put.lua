-- Writes a chunk of a large value of a held job. ARGV: id, fence, part, name, chunk
local id, fence, kept, name, chunk = unpack(ARGV)
if fenced_out(id, fence) then return 'fenced' end
redis.call('HSET', part(id, kept), name, chunk)
return 'ok'
