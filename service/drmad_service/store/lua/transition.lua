-- Runs a transition. ARGV: id, fence or '' for users, transitions from -> to (JSON), reason, message,
-- fields of the job (JSON), state to resume from (JSON) or '', expected version of the job or '', the
-- user's principal
local id, fence, states, reason, message, fields, state, seen, by = unpack(ARGV)
local status, version = unpack(redis.call('HMGET', K.job .. id, 'status', 'version'))
if not status then return { 'unknown', '' } end
if fence ~= '' and fenced_out(id, fence) then return { 'fenced', status } end
local to = cjson.decode(states)[status]
if not to or (seen ~= '' and seen ~= version) then return { 'refused', status } end
if to ~= status then
  write_when_full()
  assign(id, fields)
  if state ~= '' then redis.call('SET', part(id, 'state'), state) end
  local now = now_ms()
  if fence ~= '' then by = redis.call('HGET', K.job .. id, 'owner') or '' end
  enter(id, to, reason, message, now, by)
  if reason == 'not_placed' then stand_back(id, now) end
end
return { 'ok', to }
