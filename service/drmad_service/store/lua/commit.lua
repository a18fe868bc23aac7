-- Commits one meta-iteration. Returns 'ok' and the job's status, or the reason of the refusal.
-- ARGV: id, fence, iteration, record (JSON), state (JSON), vectors (JSON), models (JSON, field ->
-- value), fields of the job (JSON), iterations whose vectors are dropped (JSON), their chunks (JSON),
-- chunks of dropped models (JSON), checkpoints (JSON, field -> value), dropped checkpoints (JSON),
-- their chunks (JSON)
local id, fence, iteration, record, state, vectors, models, fields, dropped, garbage, old_models,
  checkpoints, old_checkpoints, old_training = unpack(ARGV)
local job = K.job .. id
if redis.call('EXISTS', job) == 0 then return { 'unknown', '' } end
if fenced_out(id, fence) then return { 'fenced', '' } end
local committed = redis.call('HGET', job, 'iteration')
if committed == string.format('%d', iteration + 1) then
  return { 'ok', redis.call('HGET', job, 'status') }
end
if committed ~= iteration then return { 'gap', committed } end
local now = now_ms()
count('meta_iterations')
for phase, seconds in pairs(cjson.decode(record).seconds or {}) do
  count('seconds:' .. phase, seconds)
end
record = string.gsub(record, '^{', '{"at":' .. string.format('%.0f', now) .. ',', 1)
redis.call('XADD', part(id, 'history'), iteration .. '-1', 'record', record)
redis.call('SET', part(id, 'state'), state)
redis.call('HSET', part(id, 'vectors'), iteration, vectors)
for name, value in pairs(cjson.decode(models)) do
  redis.call('HSET', part(id, 'models'), name, value)
end
for _, number in ipairs(cjson.decode(dropped)) do
  redis.call('HDEL', part(id, 'vectors'), number)
end
for number, value in pairs(cjson.decode(checkpoints)) do
  redis.call('HSET', part(id, 'checkpoints'), number, value)
end
for _, number in ipairs(cjson.decode(old_checkpoints)) do
  redis.call('HDEL', part(id, 'checkpoints'), number)
end
drop_chunks(id, 'chunks', garbage)
drop_chunks(id, 'model_chunks', old_models)
drop_chunks(id, 'checkpoint_chunks', old_training)
redis.call('HSET', job, 'iteration', iteration + 1)
assign(id, fields)
emit(id, 'iteration', record, now)
return { 'ok', redis.call('HGET', job, 'status') }
