-- Changes the labels of a job. ARGV: id, who changes them, the changes (JSON: name, note and an
-- excerpt of it, tags with null for each that goes, no_tags, archived), name and tags of its spec (JSON), maximum number of tags
local id, by, changes, given, most = unpack(ARGV)
local job, now = K.job .. id, now_ms()
local status, tenant, name, note, tags, archived = unpack(redis.call('HMGET', job, 'status', 'tenant',
  'name', 'note', 'tags', 'archived_at'))
if not status then return { 'unknown', '' } end
changes, given = cjson.decode(changes), cjson.decode(given)
if changes.archived and not TERMINAL[status] then return { 'refused', status } end

local wanted = cjson.decode(tags or cjson.encode(given.tags))
local touched = {}
if changes.no_tags then
  for key in pairs(wanted) do table.insert(touched, '-' .. key) end
  wanted = {}
end
for key, value in pairs(changes.tags or {}) do
  if value == cjson.null then value = nil end
  if wanted[key] ~= value then
    table.insert(touched, value and key .. ':' .. value or '-' .. key)
    wanted[key] = value
  end
end
local count_of_tags = 0
for _ in pairs(wanted) do count_of_tags = count_of_tags + 1 end
if #touched > 0 and count_of_tags > tonumber(most) then
  return { 'too_many', tostring(count_of_tags) }
end

local done = {}
if changes.name and changes.name ~= (name or given.name) then
  redis.call('HSET', job, 'name', changes.name)
  table.insert(done, { 'renamed', changes.name })
end
if changes.note and changes.note ~= (note or '') then
  assign(id, cjson.encode({ note = changes.note }))
  table.insert(done, { 'noted', changes.excerpt })
end
if #touched > 0 then
  table.sort(touched)
  redis.call('HSET', job, 'tags', cjson.encode(wanted))
  table.insert(done, { 'tagged', table.concat(touched, ' ') })
end
if changes.archived and not archived then
  shelve(id, tenant, status, now)
  table.insert(done, { 'archived', '' })
elseif changes.archived == false and archived then
  unshelve(id, tenant, status)
  table.insert(done, { 'unarchived', '' })
end
for _, what in ipairs(done) do
  audit(by, tenant, what[1], now, 'job', id, 'detail', what[2])
end
if #done > 0 then changed(id) end
return { 'ok', status }
