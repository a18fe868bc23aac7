-- Returns ids of queued jobs in the order in which they will run if no other job is submitted; jobs
-- that do not fit the cluster come last. ARGV: cpus and gpus of the cluster, maximum number of ids
local all = capacity(ARGV[1], ARGV[2], math.huge, math.huge)
local waiting = {}
local queued = redis.call('ZRANGE', K.queue, 0, ARGV[3] - 1, 'WITHSCORES')
for i = 1, #queued, 2 do
  local job = redis.call('HMGET', K.job .. queued[i], 'cpus', 'gpus', 'tenant')
  waiting[#waiting + 1] = {
    id = queued[i],
    fits = tonumber(job[1]) <= all.cpus and tonumber(job[2]) <= all.gpus,
    rank = tonumber(queued[i + 1]) + share_of(all, job[3]).jobs * K.share_ms,
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
