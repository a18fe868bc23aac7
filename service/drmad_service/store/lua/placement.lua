-- Precedes the scripts that place jobs: what the nodes hold, where replicas go, whose turn it is.

-- The replicas of a job and what each of them needs.
local function needs_of(id)
  local job = redis.call('HMGET', K.job .. id, 'cpus', 'gpus', 'replicas', 'tenant', 'priority',
    'unplaced_at', 'unplaced_until')
  local count, placement = string.match(job[3] or '', '^(%d+) (%S+)$')
  if not count then  -- created by an earlier release
    local replicas = cjson.decode(redis.call('HGET', K.job .. id, 'spec')).replicas or {}
    count, placement = replicas.count or 1, replicas.placement or 'pack'
  end
  count = tonumber(count)
  return { id = id, tenant = job[4], priority = tonumber(job[5]), count = count,
    placement = placement, cpus = tonumber(job[1]) / count, gpus = tonumber(job[2]) / count,
    unplaced_at = tonumber(job[6]), unplaced_until = tonumber(job[7]) }
end

-- The number of replicas that fit what is free of a node. A replica has one GPU or a part of one;
-- those of an earlier release may have several whole ones.
local function slots(node, job)
  local fitting = math.floor((node.cpus + K.slack) / job.cpus)
  if job.gpus > 0 then
    local beside = 0
    for _, free in ipairs(node.gpus) do
      if job.gpus <= 1 then
        beside = beside + math.floor((free + K.slack) / job.gpus)
      elseif free >= 1 - K.slack then
        beside = beside + 1 / math.ceil(job.gpus)
      end
    end
    fitting = math.min(fitting, math.floor(beside + K.slack))
  end
  return math.max(0, fitting)
end

local function holds(nodes, job)
  local places = 0
  for _, node in ipairs(nodes) do
    places = places + slots(node, job)
    if places >= job.count then return true end
  end
  return false
end

-- How many replicas each node takes: on as few nodes as possible, or on as many.
local function shares_of_nodes(nodes, job)
  local shares, left, room = {}, job.count, {}
  for i, node in ipairs(nodes) do shares[i], room[i] = 0, slots(node, job) end
  while left > 0 do
    local best
    for i, node in ipairs(nodes) do
      local free = room[i] - shares[i]
      if free > 0 then
        local key
        if job.placement == 'spread' then
          key = { shares[i], -node.cpus }
        elseif free >= left then  -- holds the rest: rather without unused GPUs, then the fullest
          key = { (job.gpus == 0 and #node.gpus > 0) and 1 or 0, free }
        else
          key = { 2, -free }
        end
        if not best or key[1] < best.key[1] or (key[1] == best.key[1] and key[2] < best.key[2]) then
          best = { i = i, key = key, free = free }
        end
      end
    end
    local taken = job.placement == 'spread' and 1 or math.min(best.free, left)
    shares[best.i], left = shares[best.i] + taken, left - taken
  end
  return shares
end

-- Places a job that fits, and takes what it needs from the nodes. Returns a list of
-- {node, replicas, cpus, {{number of a GPU, its part}, ...}}; replicas of one entry share a GPU.
local function place(nodes, job)
  local entries = {}
  for i, share in ipairs(shares_of_nodes(nodes, job)) do
    local node, left = nodes[i], share
    node.cpus = node.cpus - share * job.cpus
    while left > 0 do
      local taken, parts = left, {}
      if job.gpus > 1 then
        taken = 1
        for gpu, free in ipairs(node.gpus) do
          if free >= 1 - K.slack and #parts < math.ceil(job.gpus) then parts[#parts + 1] = { gpu, 1 } end
        end
      elseif job.gpus > 0 then  -- the fullest GPU that holds the rest, else the emptiest one
        local best, most = nil, 0
        for gpu, free in ipairs(node.gpus) do
          local room = math.floor((free + K.slack) / job.gpus)
          local better = room > most
          if most >= left then better = room >= left and room < most end
          if room > 0 and better then best, most = gpu, room end
        end
        taken = math.min(most, left)
        parts[1] = { best, taken * job.gpus }
      end
      for _, part in ipairs(parts) do node.gpus[part[1]] = node.gpus[part[1]] - part[2] end
      entries[#entries + 1] = { node.id, taken, taken * job.cpus, parts }
      left = left - taken
    end
  end
  return entries
end

local function reserve(key, job, entries)
  redis.call('HSET', K.reservations, key,
    job.cpus * job.count .. ' ' .. job.gpus * job.count .. ' ' .. job.tenant)
  redis.call('HSET', K.places, key, cjson.encode(entries))
  -- Replicas that move go on using what is reserved.
  local now = string.format('%.0f', now_ms())
  if redis.call('HSETNX', K.reserved_at, key, now) == 1
    and redis.call('EXISTS', K.job .. key) == 1 then
    redis.call('HSET', K.job .. key, 'reserved_at', now)
  end
end

local function without_use(nodes)
  local empty = {}
  for i, node in ipairs(nodes) do
    local gpus = {}
    for gpu = 1, math.floor(node.gpus + K.slack) do gpus[gpu] = 1 end
    empty[i] = { id = node.id, cpus = node.cpus, gpus = gpus }
  end
  return empty
end

-- Takes the parts of an entry from its node, unless that is gone.
local function take_entry(by_id, entry)
  local node = by_id[entry[1]]
  if not node then return false end
  node.cpus = node.cpus - entry[3]
  for _, part in ipairs(entry[4]) do
    if not node.gpus[part[1]] then return false end
    node.gpus[part[1]] = node.gpus[part[1]] - part[2]
  end
  return true
end

-- A reservation of an earlier release names no nodes: it is taken from the first that have room.
local function take_anywhere(nodes, cpus, gpus)
  for _, node in ipairs(nodes) do
    local taken = math.min(node.cpus, cpus)
    node.cpus, cpus = node.cpus - taken, cpus - taken
    for gpu, free in ipairs(node.gpus) do
      taken = math.min(free, gpus)
      node.gpus[gpu], gpus = free - taken, gpus - taken
    end
  end
end

local function share_of(all, tenant)
  return all.tenants[tenant] or { jobs = 0, gpus = 0, replicas = 0 }
end

-- The nodes with what is not reserved by those that `counts` accepts, the empty nodes, and the bounds
-- of a tenant. `described` is a Capacity (JSON).
local function capacity(described, counts)
  local cluster = cjson.decode(described)
  local all = { cluster = cluster, nodes = without_use(cluster.nodes), whole = without_use(cluster.nodes), by_id = {},
    most_jobs = cluster.tenant_jobs, most_replicas = cluster.tenant_replicas, most_gpus = cluster.tenant_gpus, tenants = {}, own = {},
    now = now_ms(), changed_at = 0, known = {} }
  for _, announced in ipairs(redis.call('HVALS', K.cluster)) do
    local changed = string.match(announced, '^{"at":%d+,"changed":(%d+)')
    all.changed_at = math.max(all.changed_at, tonumber(changed) or 0)
  end
  for _, node in ipairs(all.nodes) do all.by_id[node.id] = node end
  local reservations = redis.call('HGETALL', K.reservations)
  for i = 1, #reservations, 2 do
    if not counts or counts(reservations[i]) then
      local c, g, tenant = string.match(reservations[i + 1], '^(%S+) (%S+) (%S+)$')
      local entries = redis.call('HGET', K.places, reservations[i])
      local share = share_of(all, tenant)
      local replicas = share.replicas
      for _, entry in ipairs(entries and cjson.decode(entries) or {}) do replicas = replicas + entry[2] end
      all.tenants[tenant] = { jobs = share.jobs + 1, gpus = share.gpus + tonumber(g),
        replicas = replicas }
      if not entries then
        take_anywhere(all.nodes, tonumber(c), tonumber(g))
      else
        for _, entry in ipairs(cjson.decode(entries)) do take_entry(all.by_id, entry) end
      end
    end
  end
  return all
end

-- Whether a scheduler drives jobs of a tenant: of those that it names, or of all but some.
local function serves(cluster, tenant)
  for _, other in ipairs(cluster.not_tenants or {}) do
    if other == tenant then return false end
  end
  for _, own in ipairs(cluster.tenants or {}) do
    if own == tenant then return true end
  end
  return #(cluster.tenants or {}) == 0
end

-- The bound of its tenant that keeps the job back beside the tenant's running ones, and its number; nil
-- without one.
local function bound_of(all, job)
  local share, own = share_of(all, job.tenant), all.own[job.tenant]
  if not own then
    own = own_limits(job.tenant)
    all.own[job.tenant] = own
  end
  local jobs, gpus, replicas = own.running_jobs or all.most_jobs, own.gpus or all.most_gpus,
    own.replicas or all.most_replicas
  if share.jobs >= jobs then return 'running_jobs', jobs end
  if share.gpus + job.gpus * job.count > gpus + K.slack then return 'gpus', gpus end
  if share.replicas + job.count > replicas then return 'replicas', replicas end
  return nil
end

local function allowed(all, job)
  return bound_of(all, job) == nil
end

local function fits(all, job)
  return allowed(all, job) and holds(all.nodes, job)
end

-- Whether the nodes could hold the job if nothing else ran; known for each kind of need.
local function possible(all, job)
  local kind = job.count .. ' ' .. job.cpus .. ' ' .. job.gpus
  if all.known[kind] == nil then all.known[kind] = holds(all.whole, job) end
  return all.known[kind]
end

-- Whether the job waits because its replicas could not be placed, although there was room. It does not
-- once the nodes have changed.
local function stands_back(all, job)
  return job.unplaced_until and job.unplaced_until > all.now and job.unplaced_at >= all.changed_at
end

-- The rank is age and priority, raised by every running job of the tenant.
local function ranked(all, job, score)
  job.rank = tonumber(score) + share_of(all, job.tenant).jobs * K.share_ms
  return job
end

-- Whether the job can be the next to run: jobs of which this is not so are in nobody's way.
local function may_be_next(all, job)
  return serves(all.cluster, job.tenant) and possible(all, job) and allowed(all, job)
    and not stands_back(all, job)
end

-- The first `most` of the queued jobs, in the order of their turns if no other job is submitted; jobs that
-- no nodes hold come last.
local function turns(all, most)
  local waiting = {}
  local queued = redis.call('ZRANGE', K.queue, 0, most - 1, 'WITHSCORES')
  for i = 1, #queued, 2 do
    local job = ranked(all, needs_of(queued[i]), queued[i + 1])
    job.fits = possible(all, job)
    waiting[#waiting + 1] = job
  end
  table.sort(waiting, function(a, b)
    if a.fits ~= b.fits then return a.fits end
    if a.rank ~= b.rank then return a.rank < b.rank end
    return a.id < b.id
  end)
  return waiting
end

-- The next job to run, of those that fit the nodes and the bounds of their tenants: the one of lowest
-- rank.
local function first_waiting(all)
  local first
  local start, page = 0, 100
  while true do
    local queued = redis.call('ZRANGE', K.queue, start, start + page - 1, 'WITHSCORES')
    for i = 1, #queued, 2 do
      local rank = tonumber(queued[i + 1])
      -- The shares only raise ranks: no later job can precede the first one found.
      if first and rank >= first.rank then return first end
      local waiting = ranked(all, needs_of(queued[i]), rank)
      if may_be_next(all, waiting) then
        if not first or waiting.rank < first.rank then first = waiting end
      end
    end
    if #queued < 2 * page then return first end
    start = start + page
  end
end

