-- Writes what the driver of a job reports. ARGV: id, fence, fields of the job (JSON), type of an event
-- or '', its data (JSON), state to resume from (JSON) or '', chunks that become unreferenced (JSON).
-- Returns the job's status.
local id, fence, fields, kind, data, state, garbage = unpack(ARGV)
local status = redis.call('HGET', K.job .. id, 'status')
if not status then return { 'unknown', '' } end
if fenced_out(id, fence) then return { 'fenced', status } end
assign(id, fields)
if state ~= '' then redis.call('SET', part(id, 'state'), state) end
drop_chunks(id, 'chunks', garbage)
if kind == 'warning' then count('warning:' .. cjson.decode(data).code) end
if kind == 'rollback' then count('rollbacks') end
if kind ~= '' then emit(id, kind, data, now_ms()) else changed(id) end
return { 'ok', status }
