-- Writes what the driver of a job reports. ARGV: id, fence, fields of the job (JSON), type of an event
-- or '', its data (JSON), state to resume from (JSON) or '', chunks that become unreferenced (JSON).
-- Returns the job's status.
local id, fence, fields, kind, data, state, garbage = unpack(ARGV)
local status = redis.call('HGET', K.job .. id, 'status')
if not status then return { 'unknown', '' } end
if fenced_out(id, fence) then return { 'fenced', status } end
if kind == '' and state == '' then write_when_full() end
assign(id, fields)
if state ~= '' then redis.call('SET', part(id, 'state'), state) end
drop_chunks(id, 'chunks', garbage)
if kind == 'warning' then
  local warning = cjson.decode(data)
  count('warning:' .. warning.code)
  -- The job keeps its last 20 warnings, each once.
  local kept = { }
  for _, other in ipairs(cjson.decode(redis.call('HGET', K.job .. id, 'warnings') or '[]')) do
    if other.code ~= warning.code or other.message ~= warning.message then
      table.insert(kept, other)
    end
  end
  table.insert(kept, { code = warning.code, message = warning.message })
  if #kept > 20 then table.remove(kept, 1) end
  redis.call('HSET', K.job .. id, 'warnings', cjson.encode(kept))
end
if kind == 'rollback' then count('rollbacks') end
if kind ~= '' then emit(id, kind, data, now_ms()) else changed(id) end
return { 'ok', status }
