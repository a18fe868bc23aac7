-- Writes a chunk of the model of a held run beside a job. ARGV: job, id, token, name, chunk
local job, id, token, name, chunk = unpack(ARGV)
if run_lost(job, id, token) then return 'lost' end
redis.call('HSET', part(job, 'retrained_chunks'), name, chunk)
return 'ok'
