-- Takes the oldest request of the tenant that was served longest ago. ARGV: kind, the tenants that are
-- served now, as in a Capacity (JSON). Returns {id, tenant, content}, or nil when there is none.
local kind, cluster = ARGV[1], cjson.decode(ARGV[2])
local tenants = K.requests .. kind
for _, tenant in ipairs(redis.call('ZRANGE', tenants, 0, -1)) do
  if serves(cluster, tenant) then
    local id = redis.call('LPOP', tenants .. ':' .. tenant)
    while id do
      local content = redis.call('GET', K.request .. kind .. ':' .. id)
      if content then  -- its asker waits for it
        redis.call('ZADD', tenants, now_ms(), tenant)
        return { id, tenant, content }
      end
      id = redis.call('LPOP', tenants .. ':' .. tenant)
    end
    redis.call('ZREM', tenants, tenant)
  end
end
return nil
