-- Requests a validation. ARGV: job, id, record (JSON), "<cpus> <gpus>" of a worker, most to keep.
-- Returns 'ok', 'unknown', or 'open <id>' while another one of the job is not finished.
local job, id, record, needs, most = unpack(ARGV)
if redis.call('EXISTS', K.job .. job) == 0 then return 'unknown' end
local kept = part(job, 'validations')
local ids = {}
for _, field in ipairs(redis.call('HKEYS', kept)) do
  if not string.find(field, ':') then ids[#ids + 1] = field end
end
table.sort(ids)
for _, other in ipairs(ids) do
  if redis.call('ZSCORE', K.validations, job .. ' ' .. other) then return 'open ' .. other end
end
for i = 1, #ids - tonumber(most) + 1 do
  for _, name in ipairs({ '', ':status', ':needs', ':token', ':progress', ':outcome' }) do
    redis.call('HDEL', kept, ids[i] .. name)
  end
end
redis.call('HSET', kept, id, record, id .. ':status', 'queued', id .. ':needs', needs)
local now = now_ms()
redis.call('ZADD', K.validations, now, job .. ' ' .. id)
emit(job, 'validation', cjson.encode({ id = id, status = 'queued' }), now)
return 'ok'
