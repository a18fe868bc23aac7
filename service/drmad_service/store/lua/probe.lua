-- Fails as every write of the service would: Redis is full, read-only, or denies the right.
redis.call('SET', K.probe, '1', 'PX', 1)
redis.call('DEL', K.probe)
return 'ok'
