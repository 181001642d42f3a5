"""The limiter's scripts for Redis: `delivery.limiter_local`, word for word, where all workers meet.

Times are microseconds of the server's clock; whole numbers of that size are exact in Lua. A change here is a change
there, and the other way round: tests/integration/worker/test_limits_redis.py runs both side by side.
Nothing but numbers, delivery ids and keyed hashes is kept, and every key expires.

Memory does not forget, Redis may. An account's state carries the id of the server's run; a server
that was wiped, restarted or restored shows another one or none, lets nothing go and names the gap, until REMEMBER
closed it with what the ledger knows. A gap is closed once, and only by who asked the ledger after it opened.
"""

_SHARED = """
local next_argument = 0
local function argument()
  next_argument = next_argument + 1
  return ARGV[next_argument]
end
local function number() return tonumber(argument()) end
local function whole(value) return string.format('%.0f', value) end
local function exact(value) return string.format('%.17g', value) end

local function instant()
  local given = number()
  if given > 0 then return given end
  local time = redis.call('TIME')
  return tonumber(time[1]) * 1000000 + tonumber(time[2])
end

local function keep(key, span_us)
  local ms = math.ceil(span_us / 1000)
  if redis.call('PTTL', key) < ms then redis.call('PEXPIRE', key, whole(ms)) end
end

local function windows()
  local found = {}
  for i = 1, number() do
    found[i] = {calls = number(), plan = number(), leeway = number(), burst = number()}
  end
  return found
end

local function load(first, its_windows)
  local s = {state = KEYS[first], calls = KEYS[first + 1], queue = KEYS[first + 2], windows = its_windows, full = {}}
  local fields = {'at', 'virtual', 'share', 'cut', 'hold', 'run', 'checked', 'since'}
  for i, w in ipairs(its_windows) do
    if w.burst > 0 then fields[#fields + 1] = 'full' .. i end
  end
  local got = redis.call('HMGET', s.state, unpack(fields))
  s.at, s.virtual_at = tonumber(got[1] or 0), tonumber(got[2] or 0)
  s.share, s.cut, s.hold = tonumber(got[3] or 1), tonumber(got[4] or 0), tonumber(got[5] or nil)
  s.run, s.checked, s.since = got[6], tonumber(got[7] or 0), tonumber(got[8] or 0)
  local place = 8
  for i, w in ipairs(its_windows) do
    if w.burst > 0 then
      place = place + 1
      s.full[i] = tonumber(got[place] or 0)
    end
  end
  return s
end

local growth
local function rise(s) return (1 - s.share) / growth * 1000000 end
local function share_at(s, now) return math.min(1, s.share + growth * math.max(0, now - s.at) / 1000000) end
local function virtual(s, now)
  local passed = math.max(0, now - s.at)
  local rising = math.min(passed, rise(s))
  return s.virtual_at + math.floor(s.share * rising + growth / 1000000 * rising * rising / 2 + (passed - rising))
end

local function stop(s, now, span)
  s.share, s.virtual_at, s.at = share_at(s, now), virtual(s, now), math.max(s.at, now + span)
end

local function save(s, now, horizon)
  redis.call('HSET', s.state, 'at', whole(s.at), 'virtual', whole(s.virtual_at), 'share', exact(s.share),
    'cut', whole(s.cut))
  keep(s.state, s.at - now + 1000000 / growth + 2 * horizon)
end

local function server_run() return string.match(redis.call('INFO', 'server'), 'run_id:(%x+)') or '0' end

local function keep_memory(s)
  local span = 3600000000
  for _, w in ipairs(s.windows) do span = math.max(span, w.plan) end
  keep(s.state, span)
end
"""

ASK = (
    _SHARED
    + """
local now, cap = instant(), number()
local horizon, grace, kept_free, first_hold, owed = number(), number(), number(), number(), number()
local pause, spread = number(), number()
growth = number()
local early = 1000
local id, lease

local function real(s, v)
  local ahead, full, slope = v - s.virtual_at, rise(s), growth / 1000000
  local all = s.share * full + slope * full * full / 2
  local passed
  if ahead <= 0 then
    passed = 0
  elseif ahead >= all then
    passed = full + ahead - all
  else
    passed = (math.sqrt(s.share * s.share + 2 * slope * ahead) - s.share) / slope
  end
  return math.max(now, s.at + math.ceil(passed))
end

local function reserved(s, place)
  local rank = s.behind + place
  return tonumber(redis.call('ZRANGE', s.queue, rank, rank, 'WITHSCORES')[2])
end

local function strict(s, w, ahead, share)
  if ahead >= w.calls then
    local before = math.max(reserved(s, ahead - w.calls), virtual(s, now))
    if share < 1 then return real(s, before + w.plan) end
    return real(s, before) + w.plan
  end
  local calls = math.max(1, math.floor(w.calls * share))
  local every = math.ceil(w.plan * calls / (w.calls * share))
  if ahead >= calls then return real(s, reserved(s, ahead - calls)) + every end
  local earlier = math.max(s.blank, tonumber(redis.call('LINDEX', s.calls, calls - ahead - 1) or 0))
  return earlier > 0 and earlier + every or 0
end

local function free(s, ahead, first)
  local slot, deciding, go = 0, 0, true
  for i, w in ipairs(s.windows) do
    local share, due = s.slows and i == 1 and share_at(s, now) or 1, nil
    if w.burst > 0 then
      local step = w.plan / w.calls / share
      due = math.ceil(math.max(s.full[i], now) + ahead * step - (w.burst - 1) * step)
    else
      due = strict(s, w, ahead, share)
      if first and due > 0 then due = due + 6 * w.leeway end
    end
    go = go and due - w.leeway <= now
    if due > slot then slot, deciding = due, i - 1 end
  end
  return slot, deciding, go
end

local function look(s)
  local clock, own = virtual(s, now), false
  s.waiting = 0
  if #s.windows > 0 then
    redis.call('ZREMRANGEBYSCORE', s.queue, '-inf', '(' .. whole(clock - grace))
    s.waiting = redis.call('ZCARD', s.queue)
    own = s.waiting > 0 and redis.call('ZSCORE', s.queue, id)
  end
  s.own, s.behind = own and true or false, 0
  if own and tonumber(own) > clock + early then
    return {go = false, slot = real(s, tonumber(own)), cause = 'reserved', index = 0}
  end
  if s.waiting > 0 then
    s.behind = redis.call('ZCOUNT', s.queue, '-inf', whole(own and clock or clock - kept_free))
    s.waiting = s.waiting - s.behind
  end
  local slot, index, go = free(s, own and 0 or s.waiting, not own and s.waiting == 0)
  if not own and s.waiting > 0 and s.windows[1].burst == 0 then
    local part = share_at(s, now) >= 1 and spread or 1
    local step = math.ceil(s.windows[1].plan / s.windows[1].calls * part)
    slot, go = math.max(slot, real(s, reserved(s, s.waiting - 1) + step)), false
  end
  if go and s.at <= now then return {go = true, slot = now, cause = s.name, index = 0} end
  if own then
    slot, index = free(s, math.max(0, redis.call('ZCOUNT', s.queue, '-inf', whole(virtual(s, slot))) - s.behind))
  end
  if s.at > now and slot <= s.at then return {go = false, slot = s.at, cause = s.frozen, index = 0} end
  return {go = false, slot = math.max(slot, now + 1), cause = s.name, index = index}
end

local function drop(s)
  if s.own then redis.call('ZREM', s.queue, id) end
end

local function place(s, slot)
  if #s.windows == 0 then return end
  redis.call('ZADD', s.queue, whole(virtual(s, slot)), id)
  keep(s.queue, slot - now + grace + 60000000)
  if s.at > 0 then keep(s.state, slot - now + grace + 60000000) end
end

local function count(s, how_many)
  local longest, span, room = 0, 0, 0
  for i, w in ipairs(s.windows) do
    if w.burst > 0 then
      local share = s.slows and i == 1 and share_at(s, now) or 1
      s.full[i] = math.ceil(math.max(s.full[i], now) + how_many * (w.plan / w.calls / share))
      redis.call('HSET', s.state, 'full' .. i, whole(s.full[i]))
      longest = math.max(longest, s.full[i] - now)
    else
      span, room = math.max(span, w.plan), math.max(room, w.calls)
    end
  end
  if longest > 0 then keep(s.state, longest + 1000000) end
  if room > 0 then
    for _ = 1, math.min(how_many, room) do redis.call('LPUSH', s.calls, whole(now)) end
    redis.call('LTRIM', s.calls, 0, room - 1)
    -- A slowed account may ask about calls that are older than the span.
    redis.call('PEXPIRE', s.calls, whole(math.ceil(span / 1000 / share_at(s, now)) + 1000))
  end
end

-- A server that restarts is away for longer than these 20 ms; asking it for its run each time would be dear.
local function other_run(s)
  if s.run and s.checked <= now and now < s.checked + 20000 then return nil end
  local run = server_run()
  if s.run ~= run then return run end
  redis.call('HSET', s.state, 'checked', whole(now))
  keep_memory(s)
end

-- One asker at a time, for a second each, is told to close the gap.
local function gap_of(s, run)
  local kept = redis.call('HMGET', s.state, 'gap', 'closer')
  local gap, closer = kept[1], tonumber(kept[2] or 0)
  if not gap or string.match(gap, '%x+') ~= run then
    gap, closer = run .. ':' .. whole(now), 0
    redis.call('HDEL', s.state, 'run')
  end
  local closes = now < closer or now >= closer + 1000000
  redis.call('HSET', s.state, 'gap', gap, 'closer', whole(closes and now or closer))
  keep_memory(s)
  return {-2, closes and 1 or 0, gap, now - tonumber(string.match(gap, ':(%d+)'))}
end

local a, of_recipients = load(1, windows()), windows()
a.name, a.frozen, a.slows, a.blank = 'account', 'frozen', true, 0
if #a.windows + #of_recipients + cap > 0 then
  local run = other_run(a)
  if run then return gap_of(a, run) end
end
if owed > 0 then count(a, owed) end
if now + pause > a.at and pause > 0 then
  stop(a, now, pause)
  save(a, now, horizon)
end

local function recipient(first)
  local r = load(first, of_recipients)
  r.name, r.frozen, r.blank = 'recipient', 'recipient_frozen', a.since
  for i, w in ipairs(r.windows) do
    if w.burst > 0 and r.blank > 0 then r.full[i] = math.max(r.full[i], r.blank + w.burst * w.plan / w.calls) end
  end
  return r
end

local function crowd()
  redis.call('ZREMRANGEBYSCORE', KEYS[4], '-inf', whole(now))
  local flying = redis.call('ZCARD', KEYS[4])
  if redis.call('ZSCORE', KEYS[4], id) then flying = flying - 1 end
  if flying + (a.own and 0 or a.waiting) < cap then return nil end
  local ahead = a.waiting
  if a.own then ahead = redis.call('ZCOUNT', a.queue, '-inf', whole(virtual(a, now))) - 1 end
  return now + math.ceil((a.hold or first_hold) * (math.max(0, ahead) + 1) / cap)
end

local function turn(r)
  local account, person = look(a), look(r)
  local crowded = cap > 0 and crowd()
  if account.go and person.go and not crowded then
    drop(a)
    drop(r)
    count(a, 1)
    count(r, 1)
    if cap > 0 then
      redis.call('ZADD', KEYS[4], whole(now + lease), id)
      keep(KEYS[4], lease + 1000000)
    end
    return {-1, 0, '', 0}
  end

  if cap > 0 then redis.call('ZREM', KEYS[4], id) end
  if crowded and crowded > account.slot then account = {slot = crowded, cause = 'concurrent', index = 0} end
  local latest = account.slot >= person.slot and account or person
  local kept = latest.slot - now <= horizon
  if kept then place(r, latest.slot) else drop(r) end
  if kept and latest == account then place(a, latest.slot) else drop(a) end
  return {latest.slot - now, kept and 1 or 0, latest.cause, latest.index}
end

local turns = {}
for first = 5, #KEYS, 3 do
  id, lease = argument(), number()
  turns[#turns + 1] = turn(recipient(first))
end
return turns
"""
)

END = (
    _SHARED
    + """
local now, id, took, cap = instant(), argument(), number(), number()
local slow, freeze, person_freeze = number(), number(), number()
local first_hold, horizon, first_cut, cut, least = number(), number(), number(), number(), number()
local cut_every, cut_memory = number(), number()
growth = number()
local a, r = load(1, windows()), load(5, windows())

if cap > 0 and redis.call('ZREM', KEYS[4], id) == 1 then
  redis.call('HSET', KEYS[1], 'hold', exact(0.9 * (a.hold or first_hold) + 0.1 * took))
  keep(KEYS[1], 2 * horizon)
end
if slow > 0 then
  stop(a, now, freeze)
  if now - a.cut >= cut_every then
    local left = now - a.cut < cut_memory and cut or first_cut
    a.share, a.cut = math.min(a.share, math.max(least, a.share * left)), now
  end
  save(a, now, horizon)
end
if person_freeze >= 0 then
  stop(r, now, person_freeze)
  save(r, now, horizon)
  for i, w in ipairs(r.windows) do
    if w.burst > 0 then
      local full = math.max(r.full[i], now + math.ceil(w.burst * w.plan / w.calls))
      redis.call('HSET', r.state, 'full' .. i, whole(full))
      keep(r.state, full - now + 1000000)
    end
  end
end
return 1
"""
)

REMEMBER = (
    _SHARED
    + """
local now, gap = instant(), argument()
if redis.call('HGET', KEYS[1], 'gap') ~= gap or server_run() ~= string.match(gap, '%x+') then return 0 end
local a, last, room, span = load(1, windows()), 0, 0, 0
for _, w in ipairs(a.windows) do
  if w.burst == 0 then room, span = math.max(room, w.calls), math.max(span, w.plan) end
end
redis.call('DEL', a.calls, KEYS[4])
for _ = 1, number() do
  last = now - number()
  if room > 0 then redis.call('LPUSH', a.calls, whole(last)) end
end
if room > 0 then
  redis.call('LTRIM', a.calls, 0, room - 1)
  keep(a.calls, span + 1000000)
end
for _ = 1, number() do
  local id, left = argument(), number()
  redis.call('ZADD', KEYS[4], whole(now + left), id)
  keep(KEYS[4], left + 1000000)
end
for i, w in ipairs(a.windows) do
  if w.burst > 0 then
    redis.call('HSET', a.state, 'full' .. i, whole(last > 0 and math.ceil(last + w.burst * w.plan / w.calls) or 0))
  end
end
redis.call('HSET', a.state, 'run', server_run(), 'checked', whole(now), 'since', whole(last))
redis.call('HDEL', a.state, 'gap', 'closer')
keep_memory(a)
return 1
"""
)
