-- Requests a run beside a job. ARGV: job, id, record (JSON), "<cpus> <gpus> <most workers>" of a worker,
-- most to keep. Returns 'ok', 'unknown', or 'open <id>' while another one of the kind is not finished.
local job, id, record, needs, most = unpack(ARGV)
if redis.call('EXISTS', K.job .. job) == 0 then return 'unknown' end
local kept = runs_of(job, id)
local ids = {}
for _, field in ipairs(redis.call('HKEYS', kept)) do
  if not string.find(field, ':') then ids[#ids + 1] = field end
end
table.sort(ids)
for _, other in ipairs(ids) do
  if redis.call('ZSCORE', K.runs, job .. ' ' .. other) then return 'open ' .. other end
end
local outcomes = {}
for i = math.max(1, #ids - tonumber(most) + 2), #ids do
  outcomes[#outcomes + 1] = redis.call('HGET', kept, ids[i] .. ':outcome') or ''
end
local named = table.concat(outcomes)
for i = 1, #ids - tonumber(most) + 1 do
  local chunks = cjson.decode(redis.call('HGET', kept, ids[i] .. ':outcome') or '{}').model or {}
  for _, chunk in ipairs(chunks) do  -- two runs of the same settings have the same model
    if not string.find(named, chunk, 1, true) then
      redis.call('HDEL', part(job, 'retrained_chunks'), chunk)
    end
  end
  for _, name in ipairs({ '', ':status', ':needs', ':token', ':progress', ':outcome', ':finished' }) do
    redis.call('HDEL', kept, ids[i] .. name)
  end
end
redis.call('HSET', kept, id, record, id .. ':status', 'queued', id .. ':needs', needs)
local now = now_ms()
redis.call('ZADD', K.runs, now, job .. ' ' .. id)
emit(job, kind_of(id), cjson.encode({ id = id, status = 'queued' }), now)
return 'ok'
