-- Authenticates a request (also where Redis refuses writes: jobs can be read there, and ended),
-- and applies the rate limit of its key.
-- ARGV: key of the session or '', id and digest of the API key without a session, requests per second
-- of a key (0: unlimited), burst. Returns {} without a session, else id and digest of the key, the
-- stored digest, tenant and scope, and the ms after which the key may send the next request.
local session, id, digest, rate, burst = unpack(ARGV)
if session ~= '' then
  id, digest = string.match(redis.call('GET', session) or '', '^(%S+) (%S+)$')
  if not id then return {} end
end
local key = K.key .. id
local kept, tenant, scope, used = unpack(redis.call('HMGET', key, 'digest', 'tenant', 'scope', 'used_at'))
-- Lua interns strings: the comparison takes the same time for every digest.
if kept ~= digest then return { id, digest, '', '', '', 0 } end
local now = now_ms()
if math.abs(now - (tonumber(used) or 0)) > 60000 then redis.pcall('HSET', key, 'used_at', now) end
rate, burst = tonumber(rate), tonumber(burst)
local wait = 0
if rate > 0 then
  local bucket = K.bucket .. id
  local left, at = unpack(redis.call('HMGET', bucket, 'left', 'at'))
  at = tonumber(at) or now
  -- The clock may have been set back since: from now on the new time counts.
  if at > now then redis.pcall('HSET', bucket, 'at', string.format('%.0f', now)) end
  left = math.min(burst, (tonumber(left) or burst) + math.max(0, now - at) * rate / 1000)
  if left < 1 then
    wait = math.ceil((1 - left) * 1000 / rate)
  else
    redis.pcall('HSET', bucket, 'left', left - 1, 'at', string.format('%.0f', now))
    redis.pcall('PEXPIRE', bucket, math.ceil(burst * 1000 / rate) + 1000)
  end
end
return { id, digest, kept, tenant, scope, wait }
