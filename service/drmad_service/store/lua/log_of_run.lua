-- Appends log lines of a run beside a job. ARGV: job, id, token, number of lines kept, replica, source,
-- then the lines
local job, id, token, kept, replica, source = unpack(ARGV)
if run_lost(job, id, token) then return 'lost' end
log_lines(job, kept, replica, source, 7)
return 'ok'
