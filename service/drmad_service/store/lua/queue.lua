-- Returns ids of queued jobs in the order of their turns. ARGV: Capacity (JSON), maximum number of ids
local ids = {}
for i, job in ipairs(turns(capacity(ARGV[1]), ARGV[2])) do ids[i] = job.id end
return ids
