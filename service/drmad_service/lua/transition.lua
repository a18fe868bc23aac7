-- ARGV: id, fence or '' for users, states from -> to (JSON), reason, message, more fields (JSON), the
-- state to resume from (JSON) or ''
local id, fence, states, reason, message, fields, state = unpack(ARGV)
local status = redis.call('HGET', K.job .. id, 'status')
if not status then return { 'unknown', '' } end
if fence ~= '' and fenced_out(id, fence) then return { 'fenced', status } end
local to = cjson.decode(states)[status]
if not to then return { 'refused', status } end
if to ~= status then
  assign(id, fields)
  if state ~= '' then redis.call('SET', part(id, 'state'), state) end
  enter(id, to, reason, message, now_ms())
end
return { 'ok', to }
