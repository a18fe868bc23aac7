-- ARGV: id, fence or '' for users, states from -> to (JSON), reason, message, more fields (JSON)
local id, fence, states, reason, message, fields = unpack(ARGV)
local status = redis.call('HGET', K.job .. id, 'status')
if not status then return { 'unknown', '' } end
if fence ~= '' and fenced_out(id, fence) then return { 'fenced', status } end
local to = cjson.decode(states)[status]
if not to then return { 'refused', status } end
if to ~= status then
  for field, value in pairs(cjson.decode(fields)) do
    redis.call('HSET', K.job .. id, field, value)
  end
  enter(id, to, reason, message, now_ms())
end
return { 'ok', to }
