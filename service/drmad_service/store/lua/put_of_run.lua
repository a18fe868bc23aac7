-- Writes a chunk of the model of a held run beside a job. ARGV: job, id, token, name, chunk
local job, id, token, name, chunk = unpack(ARGV)
if redis.call('HGET', runs_of(job, id), id .. ':token') ~= token then return 'lost' end
if not redis.call('ZSCORE', K.runs, job .. ' ' .. id) then return 'lost' end
redis.call('HSET', part(job, 'retrained_chunks'), name, chunk)
return 'ok'
