"""The breaker's counting in Redis: one state for all workers, each step one atomic script.

Owns three keys for each breaker, all in one slot, and the script that reads and changes them by the rules of
`delivery.breaker`. Redis's own clock is the only one used, so workers with wrong clocks agree. What Redis loses is
lost here too: an emptied Redis means empty windows and no overrides. Whether a breaker was open is then asked of the
ledger, once for all workers: one that was open is open again, and its trials follow.

Source: Redis documentation, "Scripting with Lua" and "Redis cluster specification" (hash tags), read 2026-11-22.
"""

import json
from collections.abc import Callable
from datetime import timedelta
from typing import Any, cast

from redis import Redis

from delivery.breaker import MS, SLICES, Admission, Change, Forced, Mark, Mode, Pass, Refusal, Rules, State, View

SERVER_TIME = "local t = redis.call('TIME') local now = t[1] * 1000 + math.floor(t[2] / 1000)"
# A breaker that nobody asked for so long starts anew, as after a loss. An override never lapses.
_KEPT = timedelta(days=1)

# KEYS: state and window, trials under way, override. ARGV: the step and its own arguments. Before it stand `now` and
# the rules as Lua numbers: there are few sets of rules and a script for each, so that a call carries few words.
# A closed breaker, nearly always the case, is answered before anything else is read.
# `moved` is the only place that changes the state; every change starts a new era, so that calls that were let through
# before it count for nothing afterwards. An instant that a clock stepping back left too far ahead is pulled in.
_SCRIPT = """
local key, trials, override = KEYS[1], KEYS[2], KEYS[3]
local mode = redis.call('HGET', override, 'mode') or 'auto'
if ARGV[1] == 'admit' and mode ~= 'open' then
  local now_is = redis.call('HMGET', key, 'state', 'era')
  if not now_is[1] then return {'unknown', tonumber(now_is[2] or 0), 0, 'closed', mode, '', 0, 0} end
  if now_is[1] == 'closed' then
    return {'pass', tonumber(now_is[2] or 0), 0, 'closed', mode, '', 0, 0}
  end
end
local got = redis.call('HMGET', key,
  'state', 'era', 'since', 'until', 'won', 'lost', 'calls', 'failures', 'first', 'last')
local state = got[1] or 'closed'
local era, since, open_until = tonumber(got[2] or 0), tonumber(got[3] or -1), tonumber(got[4] or 0)
local won, lost, calls, failures = tonumber(got[5] or 0), tonumber(got[6] or 0), tonumber(got[7] or 0),
  tonumber(got[8] or 0)
local first, last = tonumber(got[9] or 0), tonumber(got[10] or -1)
local changed = {'', 0, 0}

local function slide()
  local current = math.floor(now / slice)
  if last > current and last - current < slices then current = last end
  if last > current then
    for i = first, last do redis.call('HDEL', key, 'c' .. i, 'f' .. i) end
    calls, failures, first, last = 0, 0, 0, -1
  end
  for i = first, math.min(current - slices, last) do
    local old = redis.call('HMGET', key, 'c' .. i, 'f' .. i)
    if old[1] then
      calls, failures = calls - old[1], failures - (old[2] or 0)
      redis.call('HDEL', key, 'c' .. i, 'f' .. i)
    end
  end
  first = math.max(first, current - slices + 1)
  return current
end

local function moved(to)
  if state == 'half-open' then calls, failures = won + lost, lost
  elseif state == 'closed' then slide() end
  changed = {state, failures, calls}
  if to == 'closed' then calls, failures = 0, 0 end
  state, since, era, won, lost = to, now, math.max(era + 1, now), 0, 0
  open_until = now + open_ms
  redis.call('DEL', key, trials)
  redis.call('HSET', key, 'state', state, 'era', era, 'since', since, 'until', open_until, 'won', 0, 'lost', 0,
    'calls', calls, 'failures', failures)
  redis.call('PEXPIRE', key, keep)
end

local function forget_trials()
  redis.call('ZREMRANGEBYSCORE', trials, '-inf', now)
  redis.call('ZREMRANGEBYSCORE', trials, '(' .. string.format('%.0f', now + lease), '+inf')
end

local function answered(kind, wait)
  return {kind, era, wait, state, mode, changed[1], changed[2], changed[3]}
end

local function admit(token)
  if mode == 'open' then return answered('forced', open_ms) end
  if mode == 'closed' then return answered('pass', 0) end
  if state == 'open' then
    if open_until - now > open_ms then
      open_until = now + open_ms
      redis.call('HSET', key, 'until', open_until)
    end
    if open_until > now then return answered('wait', open_until - now) end
    moved('half-open')
  end
  forget_trials()
  if redis.call('ZCARD', trials) + won + lost >= most then return answered('wait', 0) end
  redis.call('ZADD', trials, now + lease, token)
  redis.call('PEXPIRE', trials, keep)
  return answered('trial', 0)
end

local function count(mark, times)
  local current = slide()
  if calls == 0 then first = current end
  local fresh = last ~= current
  calls, last = calls + times, current
  redis.call('HINCRBY', key, 'c' .. current, times)
  if mark == 'failure' then
    failures = failures + times
    redis.call('HINCRBY', key, 'f' .. current, times)
  end
  redis.call('HSET', key, 'calls', calls, 'failures', failures, 'first', first, 'last', last)
  if fresh then redis.call('PEXPIRE', key, keep) end
  if mode == 'auto' and calls >= minimum and failures + 1e-9 >= ratio * calls then moved('open') end
end

local function end_trial(token, mark)
  forget_trials()
  if redis.call('ZREM', trials, token) == 0 then return end
  if mark == 'success' then won = redis.call('HINCRBY', key, 'won', 1) end
  if mark == 'failure' then lost = redis.call('HINCRBY', key, 'lost', 1) end
  if won >= needed then moved('closed') elseif lost > most - needed then moved('open') end
end

local function record(token, of, mark, times)
  if tonumber(of) == era then
    if state == 'closed' then
      if mark ~= 'neutral' then count(mark, tonumber(times)) end
    elseif state == 'half-open' then end_trial(token, mark) end
  end
  return answered('', 0)
end

local function force(to, actor, reason)
  local before = mode
  mode = to
  if to == 'auto' then
    redis.call('DEL', override)
    if before == 'open' then
      if state ~= 'open' then moved('open') end
      redis.call('HSET', key, 'until', now)
      redis.call('PEXPIRE', key, keep)
    end
  else
    redis.call('HSET', override, 'mode', to, 'actor', actor, 'reason', reason, 'at', now)
    if state ~= to then moved(to) end
    if to == 'open' then redis.call('PERSIST', key) end
  end
  return answered('', 0)
end

local function move(to)
  if mode == 'auto' then moved(to) end
  return answered('', 0)
end

local function recall(to)
  if got[1] then return answered('', 0) end
  if to == 'open' then moved('open')
  else
    redis.call('HSET', key, 'state', 'closed')
    redis.call('PEXPIRE', key, keep)
  end
  return answered('', 0)
end

local function view()
  if state == 'closed' and last >= 0 then
    slide()
    redis.call('HSET', key, 'calls', calls, 'failures', failures, 'first', first, 'last', last)
  end
  forget_trials()
  local by = redis.call('HMGET', override, 'actor', 'reason', 'at')
  return cjson.encode({known = got[1] and true or false,
    state = state, mode = mode, calls = calls, failures = failures, won = won, lost = lost,
    age = since >= 0 and math.max(0, now - since) or -1, left = math.max(0, math.min(open_until - now, open_ms)),
    out = redis.call('ZCARD', trials), actor = by[1] or '', reason = by[2] or '',
    forced = math.max(0, now - (by[3] or now))})
end

local steps = {admit = admit, record = record, force = force, move = move, recall = recall, view = view}
return steps[ARGV[1]](ARGV[2], ARGV[3], ARGV[4], ARGV[5])
"""


class RedisCircuit:
    """One breaker that every worker with the same Redis shares. Each method is one round trip.

    Args:
        redis: With short time-outs and no retries of its own.
        name: The breaker's, e.g. "crm:default/create_lead".
        rules: When it opens and closes.
        was_open: Tells by the ledger whether the breaker was open, for a Redis that has no word of it; None when
            nobody can tell. Left out, an unknown breaker is closed.
        clock: Lua that sets `now` in milliseconds. Redis's own clock; only tests have another.

    Every method raises RedisError when Redis is away or refuses.
    """

    def __init__(
        self,
        redis: Redis,
        name: str,
        rules: Rules,
        *,
        was_open: Callable[[], bool | None] | None = None,
        clock: str = SERVER_TIME,
    ) -> None:
        # The braces are a hash tag: in a cluster the three keys live on one node.
        self._keys = [f"entrega:breaker:{{{name}}}:{part}" for part in ("state", "trials", "override")]
        self._was_open = was_open
        self._script = redis.register_script(f"{clock}\n{_constants(rules)}\n{_SCRIPT}")

    def admit(self, token: str) -> Admission:
        """Decide about one call."""
        reply = self._run("admit", token)
        recalled = self._recall() if _text(reply[0]) == "unknown" else None
        if recalled is not None:
            reply = self._run("admit", token)
        kind, era, wait = _text(reply[0]), int(reply[1]), int(reply[2]) * MS
        state, mode = cast("State", _text(reply[3])), cast("Mode", _text(reply[4]))
        passes = kind in {"pass", "trial", "unknown"}
        answer = Pass(token, era, trial=kind == "trial") if passes else Refusal(wait, forced=kind == "forced")
        return Admission(answer, state, mode, _change(reply) or (_change(recalled) if recalled else None))

    def record(self, granted: Pass, mark: Mark, times: int = 1) -> Change | None:
        """Learn how the call ended, or so many of the same era."""
        if mark == "neutral" and not granted.trial:
            return None  # nothing to give back: spare the round trip
        return _change(self._run("record", granted.token, granted.era, mark, times))

    def force(self, mode: Mode, *, actor: str, reason: str) -> Change | None:
        """Hold the breaker open or closed, or let it decide again."""
        return _change(self._run("force", mode, actor, reason))

    def move(self, to: State) -> Change | None:
        """Put the breaker into a state from which it goes on by itself."""
        return _change(self._run("move", to))

    def view(self) -> View:
        """Return what an operator wants to see."""
        shown = json.loads(self._run("view"))
        if not shown["known"] and self._recall() is not None:
            shown = json.loads(self._run("view"))
        return _view(shown)

    def _recall(self) -> list[Any] | None:
        """Tell a Redis that forgot what the ledger knows; None when that is nothing."""
        was_open = self._was_open() if self._was_open else None
        if was_open is None:
            return None
        return cast("list[Any]", self._run("recall", "open" if was_open else "closed"))

    def _run(self, step: str, *arguments: str | int) -> Any:
        return self._script(keys=self._keys, args=[step, *arguments])


def _constants(rules: Rules) -> str:
    kept = max(_KEPT, 2 * (rules.window + rules.open_for + rules.lease))
    numbers = {
        "slice": rules.slice_ms,
        "slices": SLICES,
        "ratio": rules.failure_ratio,
        "minimum": rules.minimum_calls,
        "open_ms": rules.open_for // MS,
        "most": rules.trials,
        "needed": rules.needed,
        "lease": rules.lease // MS,
        "keep": kept // MS,
    }
    return f"local {', '.join(numbers)} = {', '.join(str(each) for each in numbers.values())}"


def _change(reply: list[Any]) -> Change | None:
    before = _text(reply[5])
    if not before:
        return None
    return Change(cast("State", before), cast("State", _text(reply[3])), int(reply[6]), int(reply[7]))


def _view(shown: dict[str, Any]) -> View:
    auto = shown["mode"] == "auto"
    return View(
        state=shown["state"],
        mode=shown["mode"],
        calls=shown["calls"],
        failures=shown["failures"],
        age=None if shown["age"] < 0 else shown["age"] * MS,
        next_trial=shown["left"] * MS if auto and shown["state"] == "open" else None,
        trials_out=shown["out"],
        won=shown["won"],
        lost=shown["lost"],
        forced=None if auto else Forced(shown["actor"], shown["reason"], shown["forced"] * MS),
    )


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value
