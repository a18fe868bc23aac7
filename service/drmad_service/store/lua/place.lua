-- The places of a held job's replicas. They stay where they are while the nodes do; replicas of a node
-- that is gone move. ARGV: id, fence, Capacity (JSON). Returns the entries of `place` (JSON), '' when the
-- nodes have no room, or 'fenced'.
local id, fence, described = unpack(ARGV)
if fenced_out(id, fence) then return 'fenced' end
local all = capacity(described, function(other) return other ~= id end)
local held = redis.call('HGET', K.places, id)
local stay = held ~= false
for _, entry in ipairs(held and cjson.decode(held) or {}) do
  stay = take_entry(all.by_id, entry) and stay
end
if stay then return held end
all = capacity(described, function(other) return other ~= id end)
local job = needs_of(id)
if not holds(all.nodes, job) then return '' end
local entries = place(all.nodes, job)
reserve(id, job, entries)
return cjson.encode(entries)
