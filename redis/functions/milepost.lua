#!lua name=milepost_v2

-- What Milepost does in Redis in one step: publish with the fence, begin and follow a stream, and end dispatch tokens.
--
-- The library and its functions carry a version in their names, because all replicas share one name space: a change of
-- meaning takes a new number (`milepost_v3`, `mp3_...`) beside the old one, so that old and new replicas run side by
-- side. Every key is declared. Nothing here blocks. The keys are described in `redis/KEYS.md`.

-- Whether the entry id `a` ("ms-n") is after `b`.
local function after(a, b)
  local a_ms, a_n = string.match(a, '^(%d+)-(%d+)$')
  local b_ms, b_n = string.match(b, '^(%d+)-(%d+)$')
  if a_ms ~= b_ms then return tonumber(a_ms) > tonumber(b_ms) end
  return tonumber(a_n) > tonumber(b_n)
end

local function now_ms()
  local time = redis.call('TIME')
  return tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
end

-- Which server this is, and what its data came from: another text after a restart, and after each change of the
-- primary. Asked once a second, because asking costs as much as a publish. Empty where INFO is refused.
local server, asked_ms = nil, 0
local function server_id()
  local now = now_ms()
  if not server or now < asked_ms or now - asked_ms > 1000 then
    local info = redis.pcall('INFO', 'replication')
    server = type(info) == 'string' and string.match(info, 'master_replid:(%x+)') or ''
    server, asked_ms = string.sub(server, 1, 16), now
  end
  return server
end

-- The life of a user's stream: its epoch and the id of its newest entry. Stream and epoch are made together; when
-- either is gone, what is left of the other belongs to no position any more, and a new life begins, empty. On another
-- server than before, the newest entries may be gone without a trace: the stream goes on, and no position does.
local function life(stream, state, candidate)
  local known, here = redis.call('HMGET', state, 'epoch', 'last', 'server'), server_id()
  if known[1] and known[2] and redis.call('EXISTS', stream) == 1 then
    if known[3] == here then return known[1], known[2], false end
    redis.call('HSET', state, 'epoch', candidate, 'server', here)
    return candidate, known[2], false
  end
  redis.call('UNLINK', stream, state)
  redis.call('HSET', state, 'epoch', candidate, 'last', '0-0', 'server', here)
  return candidate, '0-0', true
end

local function keep(stream, state, ttl)
  redis.call('PEXPIRE', stream, ttl)
  redis.call('PEXPIRE', state, ttl)
end

-- A life whose stream exists, even when nothing was published yet: only an existing key can carry groups.
local function open(stream, state, candidate, ttl)
  local epoch, last, new = life(stream, state, candidate)
  if new then
    redis.call('XGROUP', 'CREATE', stream, 'new', '0', 'MKSTREAM')
    redis.call('XGROUP', 'DESTROY', stream, 'new')
    keep(stream, state, ttl)
  end
  return epoch, last
end

-- Keeps events with results for the attempt after, from the first one on whose results may not be recorded: a small
-- stream whose ids are `attempt-seq`. When it cannot be written, because it holds what is not ours, the results are not
-- kept and their items run again; that must not fail the event.
local function keep_results(results, args, kept_before)
  if args[4] == '1' then
    redis.call('UNLINK', results)
    return
  end
  local from = args[1] .. '-' .. args[12]
  if args[12] ~= '' and from ~= kept_before then
    redis.pcall('XTRIM', results, 'MINID', from)
    if redis.pcall('XLEN', results) == 0 then redis.call('UNLINK', results) end
  end
  if args[13] == '1' then
    redis.pcall('XADD', results, 'MAXLEN', '~', args[14], args[1] .. '-' .. args[2], 'd', args[5])
    redis.call('PEXPIRE', results, args[11])
  end
end

-- Keys: stream, epoch, task, doorbell channel, results of the task.
-- Args: attempt, seq, task id, terminal (0 or 1), event, the event without items, candidate epoch, entries kept,
--       age kept in ms, ttl of the stream in ms, ttl of the task in ms, number of the first event of this attempt whose
--       results may not be recorded ('' when that is not known), whether this event has results (0 or 1), events with
--       results kept.
-- Gives {'appended', epoch, id}, {'repeat'} or {'fenced', attempt}.
local function publish(keys, args)
  local stream, state, task, channel = keys[1], keys[2], keys[3], keys[4]
  local attempt, seq = tonumber(args[1]), tonumber(args[2])
  local known = redis.call('HMGET', task, 'attempt', 'seq', 'kept')
  if known[1] then
    local holder = tonumber(known[1])
    if attempt < holder then return {'fenced', known[1]} end
    if attempt == holder and seq <= tonumber(known[2]) then return {'repeat'} end
  end

  local epoch, last = life(stream, state, args[7])
  local id = redis.call('XADD', stream, 'MAXLEN', '~', args[8], '*',
    't', args[3], 'n', args[1] .. '-' .. args[2], 'e', args[4], 'p', last, 'd', args[5])
  redis.call('HSET', state, 'last', id)
  -- Age and life are looked after with the first event of each second: they are counted in hours, and events in thousands.
  local at = tonumber(string.match(id, '^(%d+)'))
  if math.floor(at / 1000) ~= math.floor(tonumber(string.match(last, '^(%d+)')) / 1000) then
    redis.call('XTRIM', stream, 'MINID', '~', string.format('%d', math.max(at - tonumber(args[9]), 0)))
    keep(stream, state, args[10])
  end
  if args[12] ~= '' then
    redis.call('HSET', task, 'attempt', args[1], 'seq', args[2], 'live', args[6], 'kept', args[1] .. '-' .. args[12])
  else
    redis.call('HSET', task, 'attempt', args[1], 'seq', args[2], 'live', args[6])
  end
  redis.call('PEXPIRE', task, args[11])
  keep_results(keys[5], args, known[3])
  redis.call('SPUBLISH', channel, id)
  return {'appended', epoch, id}
end

-- Keys: stream, epoch. Args: candidate epoch, ttl of the stream in ms. Gives {epoch, id of the newest entry}.
local function head(keys, args)
  local epoch, last = open(keys[1], keys[2], args[1], args[2])
  return {epoch, last}
end

-- Makes sure that a replica's group exists, where the reader can go on from what it has delivered.
--
-- Keys: stream, epoch, index of the replica's groups.
-- Args: group, user, candidate epoch, ttl of the stream in ms, epoch the reader is in ('' at first), its cursor.
-- Gives {epoch, cursor, loss, made}: the loss is '' or a word of `bus::Loss`, made is 1 for a group that was missing.
local function follow(keys, args)
  local stream, group, known, cursor = keys[1], args[1], args[5], args[6]
  local epoch, last = open(stream, keys[2], args[3], args[4])
  local loss, start = '', last
  if known ~= '' then
    if epoch ~= known then
      loss = 'epoch'
    elseif after(cursor, last) then
      loss = 'ahead'
    elseif cursor ~= last and #redis.call('XRANGE', stream, '(' .. cursor, '+', 'COUNT', 1) == 0 then
      loss = 'trimmed'
    else
      start = cursor
    end
  end
  redis.call('SADD', keys[3], args[2])
  local created = redis.pcall('XGROUP', 'CREATE', stream, group, start)
  local made = created.err == nil
  if not made and not string.find(created.err, 'BUSYGROUP', 1, true) then return created end
  if not made and (known == '' or loss ~= '') then
    redis.call('XGROUP', 'DESTROY', stream, group)
    redis.call('XGROUP', 'CREATE', stream, group, start)
  end
  return {epoch, start, loss, made and 1 or 0}
end

-- Keys: stream, epoch. Args: candidate epoch, ttl of the stream in ms, entry id, most to give.
-- Gives {epoch, id of the newest entry, entries after that id}, all of one moment.
local function replay(keys, args)
  local epoch, last = open(keys[1], keys[2], args[1], args[2])
  return {epoch, last, redis.call('XRANGE', keys[1], '(' .. args[3], '+', 'COUNT', args[4])}
end

-- Keys: stream, index of the replica's groups. Args: group, user.
local function unfollow(keys, args)
  redis.pcall('XGROUP', 'DESTROY', keys[1], args[1])
  return redis.call('SREM', keys[2], args[2])
end

-- Keys: leases of gateways. Args: replica, length in ms.
local function lease(keys, args)
  return redis.call('ZADD', keys[1], now_ms() + tonumber(args[2]), args[1])
end

-- Keys: leases of gateways. Args: most to give. Gives replicas whose lease is over.
local function lapsed(keys, args)
  return redis.call('ZRANGEBYSCORE', keys[1], '-inf', now_ms(), 'LIMIT', 0, args[1])
end

-- Keys: leases of gateways. Args: replica. Forgets it unless it has renewed meanwhile.
local function forget(keys, args)
  local ends = redis.call('ZSCORE', keys[1], args[1])
  if ends and tonumber(ends) > now_ms() then return 0 end
  return redis.call('ZREM', keys[1], args[1])
end

-- Keys: dispatch stream. Args: group, consumer, entry id.
-- Ends a token for good. A token that has passed to another consumer is left alone: XACK alone would not look. Gives 1
-- for a token that was ended, 0 for one that is not this consumer's, -1 when there is no such group any more.
local function ack(keys, args)
  local stream, group, consumer, id = keys[1], args[1], args[2], args[3]
  local mine = redis.pcall('XPENDING', stream, group, id, id, 1, consumer)
  if mine.err then return -1 end
  if #mine == 0 then return 0 end
  redis.call('XACK', stream, group, id)
  redis.call('XDEL', stream, id)
  return 1
end

-- Keys: dispatch stream. Args: group, consumer. Puts the consumer's tokens back as new ones and removes it.
local function leave(keys, args)
  local stream, group, consumer = keys[1], args[1], args[2]
  local moved = 0
  while true do
    local mine = redis.pcall('XPENDING', stream, group, '-', '+', 100, consumer)
    if mine.err then return moved end
    if #mine == 0 then break end
    for _, pending in ipairs(mine) do
      local entry = redis.call('XRANGE', stream, pending[1], pending[1])[1]
      if entry then
        redis.call('XADD', stream, '*', unpack(entry[2]))
        redis.call('XDEL', stream, pending[1])
      end
      redis.call('XACK', stream, group, pending[1])
      moved = moved + 1
    end
  end
  redis.pcall('XGROUP', 'DELCONSUMER', stream, group, consumer)
  return moved
end

-- Keys: dispatch stream. Args: group, idle time in ms. Removes consumers that are gone and hold nothing.
local function reap(keys, args)
  local consumers = redis.pcall('XINFO', 'CONSUMERS', keys[1], args[1])
  if consumers.err then return 0 end
  local removed = 0
  for _, fields in ipairs(consumers) do
    local consumer = {}
    for i = 1, #fields, 2 do consumer[fields[i]] = fields[i + 1] end
    if consumer.pending == 0 and consumer.idle > tonumber(args[2]) then
      redis.call('XGROUP', 'DELCONSUMER', keys[1], args[1], consumer.name)
      removed = removed + 1
    end
  end
  return removed
end

-- `allow-oom` marks what must go on when memory is full, so that the system can drain itself. Publishing may not.
redis.register_function{function_name = 'mp2_publish', callback = publish}
redis.register_function{function_name = 'mp2_head', callback = head, flags = {'allow-oom'}}
redis.register_function{function_name = 'mp2_follow', callback = follow, flags = {'allow-oom'}}
redis.register_function{function_name = 'mp2_replay', callback = replay, flags = {'allow-oom'}}
redis.register_function{function_name = 'mp2_unfollow', callback = unfollow, flags = {'allow-oom'}}
redis.register_function{function_name = 'mp2_lease', callback = lease, flags = {'allow-oom'}}
redis.register_function{function_name = 'mp2_lapsed', callback = lapsed, flags = {'no-writes'}}
redis.register_function{function_name = 'mp2_forget', callback = forget, flags = {'allow-oom'}}
redis.register_function{function_name = 'mp2_ack', callback = ack, flags = {'allow-oom'}}
redis.register_function{function_name = 'mp2_leave', callback = leave, flags = {'allow-oom'}}
redis.register_function{function_name = 'mp2_reap', callback = reap, flags = {'allow-oom'}}
