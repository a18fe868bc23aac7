-- Whether a held job should make room at its next meta-iteration: the job whose turn it is has a higher
-- priority, does not fit now, and would if all that it outranks made room.
-- ARGV: id, fence, the cluster's cpus, its gpus, how many jobs and how many gpus a tenant may have
local id, fence, cpus, gpus, most_jobs, most_gpus = unpack(ARGV)
if fenced_out(id, fence) or redis.call('ZCARD', K.queue) == 0 then return 0 end
local function reserved_for(counts)
  return capacity(cpus, gpus, most_jobs, most_gpus, counts)
end
local first = first_waiting(reserved_for(function(other) return other ~= id end))
local function outranks(other)
  local rank, priority = unpack(redis.call('HMGET', K.job .. other, 'rank', 'priority'))
  return first.priority > tonumber(priority) and first.rank < tonumber(rank)
end
if not first or not outranks(id) or fits(reserved_for(), first) then return 0 end
return fits(reserved_for(function(other) return not outranks(other) end), first) and 1 or 0
