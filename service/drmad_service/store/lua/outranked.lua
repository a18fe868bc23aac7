-- Returns 1 when a held job must make room after its meta-iteration: the next queued job has a higher
-- priority, does not fit now, and fits once all jobs that it outranks have made room.
-- ARGV: id, fence, cpus and gpus of the cluster, maximum running jobs and gpus of a tenant
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
