-- The ids of all queued jobs in the order in which they will run; last those that the cluster cannot
-- hold. ARGV: the cluster's cpus, its gpus
local cpus, gpus = tonumber(ARGV[1]), tonumber(ARGV[2])
local _, _, tenants = promised()
local ids, fits = {}, {}
for _, job in ipairs(in_order(cpus, gpus, tenants)) do
  ids[#ids + 1], fits[job.id] = job.id, true
end
for _, id in ipairs(redis.call('ZRANGE', K.queue, 0, K.considered - 1)) do
  if not fits[id] then ids[#ids + 1] = id end
end
return ids
