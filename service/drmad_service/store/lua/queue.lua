-- Returns ids of queued jobs in the order in which they will run if no other job is submitted; jobs
-- that no nodes hold come last. ARGV: Capacity (JSON), maximum number of ids
local all = capacity(ARGV[1])
local waiting = {}
local queued = redis.call('ZRANGE', K.queue, 0, ARGV[2] - 1, 'WITHSCORES')
for i = 1, #queued, 2 do
  local job = needs_of(queued[i])
  waiting[#waiting + 1] = {
    id = job.id,
    fits = possible(all, job),
    rank = tonumber(queued[i + 1]) + share_of(all, job.tenant).jobs * K.share_ms,
  }
end
table.sort(waiting, function(a, b)
  if a.fits ~= b.fits then return a.fits end
  if a.rank ~= b.rank then return a.rank < b.rank end
  return a.id < b.id
end)
local ids = {}
for i, job in ipairs(waiting) do ids[i] = job.id end
return ids
