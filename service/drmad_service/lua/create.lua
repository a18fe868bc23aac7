-- ARGV: id, fields (JSON), priority bonus in ms, idempotency key or '', hash of the body, its life in s
local id, fields, bonus, idempotency, body, life = unpack(ARGV)
if idempotency ~= '' then
  local known = redis.call('GET', idempotency)
  if known then
    local first, hash = string.match(known, '^(%S+) (%S+)$')
    if redis.call('EXISTS', K.job .. first) == 1 then
      return { hash == body and 'known' or 'other_body', first }
    end
  end
  redis.call('SET', idempotency, id .. ' ' .. body, 'EX', life)
end
local now = now_ms()
for field, value in pairs(cjson.decode(fields)) do
  redis.call('HSET', K.job .. id, field, value)
end
redis.call('HSET', K.job .. id, 'created_at', string.format('%.0f', now), 'fence', 0,
  'iteration', 0, 'rank', string.format('%.0f', now - bonus))
redis.call('ZADD', K.jobs, 0, id)
enter(id, 'queued', 'submitted', '', now)
return { 'created', id }
