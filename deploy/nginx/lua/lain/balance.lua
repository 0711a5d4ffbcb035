-- The balancer phase: which address gets the request. Round robin over ready ones; suspects only after all others; those that refused a
-- connection lately only when all look bad (fail open). It asks for the newest table again: between the access phase and now a body may have
-- been read for minutes, and nothing new may go to a draining address.
local balancer = require "ngx.balancer"
local tables = require "lain.tables"
local track = require "lain.track"

local M = { most = math.huge } -- requests that one proc may have in flight in one worker: what is left is there for the others
local current = tables.current
local set_current_peer, set_more_tries = balancer.set_current_peer, balancer.set_more_tries
local get_last_failure, set_timeouts = balancer.get_last_failure, balancer.set_timeouts
local request, enter, leave = track.request, track.enter, track.leave
local procs, backends, attempts = track.procs, track.backends, track.attempts
local match = string.match

local function usable(backend, tried, ejected, now)
  return not (tried and tried[backend.peer]) and not (ejected and (ejected[backend.peer] or 0) > now)
end

local function pick(list, turn, tried, ejected, now)
  local size = #list
  if size == 0 then
    return nil
  end
  local at = turn.at
  for step = 1, size do
    local index = (at + step - 1) % size + 1
    local backend = list[index]
    if usable(backend, tried, ejected, now) then
      turn.at = index
      return backend
    end
  end
end

local function choose(proc, tried)
  local ejected = tables.ejected
  local now = ejected and ngx.now()
  local turn = proc.turn
  return pick(proc.ready, turn, tried, ejected, now)
    or pick(proc.suspect, turn, tried, ejected, now)
    or (ejected and (pick(proc.ready, turn, tried) or pick(proc.suspect, turn, tried)))
end

local function sticky(proc, key, tried)
  local wanted = ngx.var["cookie_" .. proc.sticky]
  local ejected = tables.ejected
  if wanted then
    for _, backend in ipairs(proc.ready) do
      if backend.cookie == wanted and usable(backend, tried, ejected, ejected and ngx.now()) then
        return backend
      end
    end
  end
  local backend = choose(proc, tried)
  if backend then
    local secure = ngx.var.lain_proto == "https" and "; Secure" or ""
    ngx.var.lain_cookie = proc.sticky .. "=" .. backend.cookie .. "; Path=" .. (track.paths[key] or "/") .. "; HttpOnly; SameSite=Lax" .. secure
  end
  return backend
end

-- Whether not a byte could be sent in the attempt before this one, which nginx has listed already. (Its connect time does not tell: nginx sets
-- it for refused connections too.)
local function refused()
  return match(ngx.var.upstream_bytes_sent or "", "(%d+)[%s,:]+%S+%s*$") == "0"
end

-- Account for the attempt that failed: the backend to fall back on when no other is usable, or false when nobody else may be asked.
local function judge(key)
  local _, status = get_last_failure()
  local backend = leave(key)
  local attempt = attempts[key] or { tried = {} }
  attempts[key] = attempt
  attempt.tried[backend.peer] = true
  if refused() then
    tables.eject(backend.peer)
    return backend -- nginx asks again for the last backend only if it had tried an idle connection
  elseif status == 504 or attempt.broken then
    ngx.var.lain_failure = status == 504 and "timeout" or "all_failed" -- a request that breaks its backend must not visit them all
    return false
  end
  attempt.broken = true
  return backend -- most likely an idle connection that its backend closed just now: a new one may do
end

-- By the newest table: the table, its proc or nil, the backend or nil.
local function decide(key, tried, fallback)
  local live = current()
  local proc = live.procs[procs[key].key]
  if not proc then
    return live, nil, nil
  end
  return live, proc, proc.sticky and sticky(proc, key, tried) or choose(proc, tried) or fallback
end

function M.balance()
  local key = request()
  local first, fallback, tried = not backends[key], nil, nil
  if not first then
    fallback = judge(key)
    if fallback == false then
      return ngx.exit(ngx.ERROR)
    end
    tried = attempts[key].tried
  end
  local live, proc, backend = decide(key, tried, fallback)
  if first and proc and proc.turn.inflight >= M.most then
    ngx.var.lain_failure = "too_many"
    return ngx.exit(ngx.ERROR)
  end
  if track.leaving then -- no acknowledgement speaks for this worker: what it counts must be told before the table it chose by is replaced
    while backend do
      enter(key, backend)
      if current() == live then
        break
      end
      leave(key)
      live, proc, backend = decide(key, tried, fallback)
    end
  elseif backend then
    enter(key, backend)
  end
  if not backend then
    ngx.var.lain_failure = first and "no_instances" or "all_failed"
    return ngx.exit(ngx.ERROR)
  end
  if first then
    local others = proc.others
    if others > 0 then
      set_more_tries(others)
    end
  end
  if proc.read_timeout then
    set_timeouts(nil, nil, proc.read_timeout)
  end
  local ok, why = set_current_peer(backend.address, backend.port)
  if not ok then
    leave(key)
    ngx.var.lain_failure = "all_failed"
    ngx.log(ngx.ERR, "cannot use backend ", backend.peer, ": ", why)
    return ngx.exit(ngx.ERROR)
  end
end

return M
