-- Creates a job. ARGV: id, fields (JSON), initial state (JSON) or '', priority, its bonus in ms,
-- idempotency key or '', hash of the body, expiry of the key in s, tenant, maximum queued and paused
-- jobs of the tenant (0: unlimited), who creates it
local id, fields, state, priority, bonus, idempotency, body, life, tenant, most, by = unpack(ARGV)
local theirs = jobs_of(tenant)
if idempotency ~= '' then
  local known = redis.call('GET', idempotency)
  if known then
    local first, hash = string.match(known, '^(%S+) (%S+)$')
    if redis.call('EXISTS', K.job .. first) == 1 then
      return { hash == body and 'known' or 'other_body', first }
    end
  end
end
most = tonumber(most)
most = own_limits(tenant).queued_jobs or (most > 0 and most or math.huge)
local waiting = redis.call('ZCARD', theirs .. ':queued') + redis.call('ZCARD', theirs .. ':paused')
if waiting >= most then return { 'too_many', tostring(waiting), string.format('%.0f', most) } end
if idempotency ~= '' then
  redis.call('SET', idempotency, id .. ' ' .. body, 'EX', life)
end
local now = now_ms()
assign(id, fields)
redis.call('HSET', K.job .. id, 'created_at', string.format('%.0f', now), 'fence', 0,
  'created_by', by, 'priority', priority, 'rank', string.format('%.0f', now - bonus))
redis.call('HSETNX', K.job .. id, 'iteration', 0)
redis.call('ZADD', K.jobs, 0, id)
redis.call('ZADD', theirs, 0, id)
if state ~= '' then redis.call('SET', part(id, 'state'), state) end
if state ~= '' or redis.call('HEXISTS', K.job .. id, 'warm') == 1 then
  -- The copies of a fork, and of the values that a job starts from, expire until here.
  for _, copied in ipairs({ 'chunks', 'vectors', 'checkpoints', 'checkpoint_chunks' }) do
    redis.call('PERSIST', part(id, copied))
  end
end
enter(id, 'queued', 'submitted', '', now, by)
return { 'created', id }
