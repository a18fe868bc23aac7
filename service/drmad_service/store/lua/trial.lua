-- Records a trial of a search; the first record of a number is kept.
-- ARGV: id, fence, number, record (JSON), fields of the job (JSON)
local id, fence, number, record, fields = unpack(ARGV)
if redis.call('EXISTS', K.job .. id) == 0 then return { 'unknown', '' } end
if fenced_out(id, fence) then return { 'fenced', '' } end
local now = now_ms()
record = string.gsub(record, '^{', '{"at":' .. string.format('%.0f', now) .. ',', 1)
if redis.call('HSETNX', part(id, 'trials'), number, record) == 1 then
  assign(id, fields)
  emit(id, 'trial', record, now)
end
return { 'ok', '' }
