-- Claims the next job. ARGV: scheduler, lease in ms, Capacity (JSON), transitions of a claim (JSON).
-- Returns {id, fence}, or nil when no job can run now.
local scheduler, lease, described, states = unpack(ARGV)
local now = now_ms()
states = cjson.decode(states)
local known = redis.call('HGET', K.cluster, scheduler)
local is_full = write_when_full()
-- An announcement says since when it is the same.
local changed, same = string.match(known or '', '^{"at":%d+,"changed":(%d+),(.*)$')
if not changed or '{' .. same ~= described then changed = string.format('%.0f', now) end
redis.call('HSET', K.cluster, scheduler, string.format('{"at":%.0f,"changed":%s,%s', now, changed,
  string.sub(described, 2)))
if not known then  -- remove schedulers that were killed before they could remove themselves
  local others = redis.call('HGETALL', K.cluster)
  for i = 1, #others, 2 do
    if cjson.decode(others[i + 1]).at < now - K.forgotten_ms then
      redis.call('HDEL', K.cluster, others[i])
      redis.call('HDEL', K.nodes, others[i])
    end
  end
end

local function take(id, reason, message)
  local status = redis.call('HGET', K.job .. id, 'status')
  redis.call('ZADD', K.leases, now + lease, id)
  local fence = redis.call('HINCRBY', K.job .. id, 'fence', 1)
  redis.call('HSET', K.job .. id, 'owner', scheduler)
  enter(id, states[status], reason, message, now, scheduler)
  return { id, tostring(fence) }
end

-- A clock that was set back must not keep a lost scheduler's jobs for as long as the step.
for _, id in ipairs(redis.call('ZRANGEBYSCORE', K.leases, now + 10 * math.max(lease, 1000), '+inf')) do
  redis.call('ZADD', K.leases, now + lease, id)
end

-- Jobs of a lost scheduler come first: they hold their reservation already.
for _, orphan in ipairs(redis.call('ZRANGEBYSCORE', K.leases, '-inf', now)) do
  if serves(cjson.decode(described), redis.call('HGET', K.job .. orphan, 'tenant')) then
    count('lease_losses')
    return take(orphan, 'recovered', 'its scheduler was lost; continues from the last meta-iteration')
  end
end

if is_full then return nil end  -- nothing that it computes could be kept
local all = capacity(described)
local first = first_waiting(all)
-- A job that does not fit yet stays first: smaller jobs behind it must not starve it.
if first and fits(all, first) then
  reserve(first.id, first, place(all.nodes, first))
  return take(first.id, 'claimed', '')
end
return nil
