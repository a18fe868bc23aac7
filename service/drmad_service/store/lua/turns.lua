-- Says of queued jobs which precede them. ARGV: Capacity (JSON), maximum number of jobs that are looked
-- at, ids. Returns for each id {jobs ahead, the last of these, its tenant, its priority, its created_at,
-- bound of the own tenant, its number}; empty texts where there is none, and beyond the maximum, where
-- the jobs ahead are those of lower rank.
local described, most = ARGV[1], ARGV[2]
local all = capacity(described)
local found, wanted = {}, {}
for i = 3, #ARGV do wanted[ARGV[i]] = true end
local ahead, last = 0, nil
for _, job in ipairs(turns(all, most)) do
  if wanted[job.id] then
    local bound, number = bound_of(all, job)
    local of_last = last and redis.call('HMGET', K.job .. last, 'tenant', 'priority', 'created_at') or {}
    found[job.id] = { ahead, last or '', of_last[1] or '', of_last[2] or '', of_last[3] or '', bound or '',
      number and string.format('%.15g', number) or '' }
  end
  if may_be_next(all, job) then ahead, last = ahead + 1, job.id end
end
local answers = {}
for i = 3, #ARGV do
  answers[i - 2] = found[ARGV[i]]
    or { redis.call('ZRANK', K.queue, ARGV[i]) or 0, '', '', '', '', '', '' }
end
return answers
