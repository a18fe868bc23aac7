-- Writes what the confirmation of a job found. ARGV: id, fence, fields of the job (JSON), models (JSON,
-- field -> value, '' drops it), chunks of dropped models (JSON). Returns the job's status.
local id, fence, fields, models, garbage = unpack(ARGV)
local status = redis.call('HGET', K.job .. id, 'status')
if not status then return { 'unknown', '' } end
if fenced_out(id, fence) then return { 'fenced', status } end
assign(id, fields)
for name, value in pairs(cjson.decode(models)) do
  if value == '' then
    redis.call('HDEL', part(id, 'models'), name)
  else
    redis.call('HSET', part(id, 'models'), name, value)
  end
end
drop_chunks(id, 'model_chunks', garbage)
changed(id)
return { 'ok', status }
