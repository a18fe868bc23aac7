-- Whether a held job should make room at its next meta-iteration: the first job in order waits, has a
-- higher priority and would fit in its place. ARGV: id, fence, the cluster's cpus, its gpus
local id, fence, cpus, gpus = unpack(ARGV)
if fenced_out(id, fence) or redis.call('ZCARD', K.queue) == 0 then return 0 end
local own = redis.call('HMGET', K.job .. id, 'cpus', 'gpus', 'rank', 'priority')
cpus, gpus = tonumber(cpus), tonumber(gpus)
local used_cpus, used_gpus, tenants = promised()
local first = in_order(cpus, gpus, tenants)[1]
if not first or first.priority <= tonumber(own[4]) or first.rank >= tonumber(own[3]) then
  return 0
end
local fits_now = used_cpus + first.cpus <= cpus + K.slack and used_gpus + first.gpus <= gpus + K.slack
local fits_then = used_cpus - own[1] + first.cpus <= cpus + K.slack
  and used_gpus - own[2] + first.gpus <= gpus + K.slack
return fits_then and not fits_now and 1 or 0
