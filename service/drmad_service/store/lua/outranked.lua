-- Returns 1 when a held job must make room after its meta-iteration: the next queued job has a higher
-- priority, does not fit now, and fits once this job and others that it outranks have made room. Of
-- these no more make room than it needs, the last in rank first.
-- ARGV: id, fence, Capacity (JSON)
local id, fence, described = unpack(ARGV)
if fenced_out(id, fence) or redis.call('ZCARD', K.queue) == 0 then return 0 end
local first = first_waiting(capacity(described, function(other) return other ~= id end))
if not first then return 0 end
local function outranks(other)
  local rank, priority = unpack(redis.call('HMGET', K.job .. other, 'rank', 'priority'))
  return rank and first.priority > tonumber(priority) and first.rank < tonumber(rank) and tonumber(rank)
end
if not outranks(id) then return 0 end
local gone = {}
local function fits_without()
  return fits(capacity(described, function(other) return not gone[other] end), first)
end
if fits_without() then return 0 end
local outranked = {}
for _, other in ipairs(redis.call('HKEYS', K.reservations)) do
  local rank = outranks(other)
  if rank then outranked[#outranked + 1] = { id = other, rank = rank } end
end
table.sort(outranked, function(a, b) return a.rank > b.rank or (a.rank == b.rank and a.id > b.id) end)
for i, other in ipairs(outranked) do
  gone[other.id] = true
  if fits_without() then
    for back = i - 1, 1, -1 do  -- whoever does not help stays
      gone[outranked[back].id] = nil
      if not fits_without() then gone[outranked[back].id] = true end
    end
    return gone[id] and 1 or 0
  end
end
return 0
