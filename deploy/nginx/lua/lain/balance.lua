-- The balancer phase: which address gets the request. Round robin over ready ones; suspects only after all others; those that refused a
-- connection lately only when all look bad (fail open). It asks for the newest table again: between the rewrite phase and now a body may have
-- been read for minutes, and nothing new may go to a draining address.
local balancer = require "ngx.balancer"
local fields = require "lain.fields"
local tables = require "lain.tables"
local track = require "lain.track"

local M = { most = math.huge } -- requests that one proc may have in flight in one worker: what is left is there for the others
local current = tables.current
local set_current_peer, set_more_tries = balancer.set_current_peer, balancer.set_more_tries
local get_last_failure, set_timeouts = balancer.get_last_failure, balancer.set_timeouts
local request, enter, leave, visit = track.request, track.enter, track.leave, track.visit
local held, visits, hand, load = track.held, track.visits, track.hand, track.load
local PROC, ADDRESS, PORT, PEER, COOKIE = fields.PROC, fields.ADDRESS, fields.PORT, fields.PEER, fields.COOKIE
local match = string.match

local function usable(backend, tried, ejected, now)
  return not (tried and tried[backend[PEER]]) and not (ejected and (ejected[backend[PEER]] or 0) > now)
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
      if backend[COOKIE] == wanted and usable(backend, tried, ejected, ejected and ngx.now()) then
        return backend
      end
    end
  end
  local backend = choose(proc, tried)
  if backend then
    local secure = ngx.var.lain_proto == "https" and "; Secure" or ""
    local path = visits[key] and visits[key].path or "/"
    ngx.var.lain_cookie = proc.sticky .. "=" .. backend[COOKIE] .. "; Path=" .. path .. "; HttpOnly; SameSite=Lax" .. secure
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
  local attempt = visit(key)
  attempt.tried = attempt.tried or {}
  attempt.tried[backend[PEER]] = true
  if refused() then
    tables.eject(backend[PEER])
    return backend -- nginx asks again for the last backend only if it had tried an idle connection
  elseif status == 504 or attempt.broken then
    ngx.var.lain_failure = status == 504 and "timeout" or "all_failed" -- a request that breaks its backend must not visit them all
    return false
  end
  attempt.broken = true
  return backend -- most likely an idle connection that its backend closed just now: a new one may do
end

-- The backend as the newest table has it; nil: it left the table, and gets nothing new, not even the second attempt of what it had.
local function still(proc, backend)
  for _, list in ipairs { proc.ready, proc.suspect } do
    for _, one in ipairs(list) do
      if one[PEER] == backend[PEER] then
        return one
      end
    end
  end
end

-- By the newest table: the table, the proc or nil, the backend or nil.
local function decide(name, key, tried, fallback)
  local live = current()
  local proc = live.procs[name]
  if not proc then
    return live, nil, nil
  end
  return live, proc, proc.sticky and sticky(proc, key, tried) or choose(proc, tried) or (fallback and still(proc, fallback))
end

local function fail(failure)
  ngx.var.lain_failure = failure
  return ngx.exit(ngx.ERROR)
end

local function send(key, backend)
  local ok, why = set_current_peer(backend[ADDRESS], backend[PORT])
  if not ok then
    leave(key)
    ngx.log(ngx.ERR, "cannot use backend ", backend[PEER], ": ", why)
    return fail("all_failed")
  end
end

-- Choose among the backends of a proc. `record`: what the rewrite phase found, if that is known still.
local function weigh(key, record)
  local var = ngx.var
  local first, fallback, tried = not held[key], nil, nil
  if not first then
    record = held[key]
    fallback = judge(key)
    if fallback == false then
      return ngx.exit(ngx.ERROR)
    end
    tried = visits[key].tried
  end
  local name = record and record[PROC].key or var.lain_app .. "/" .. var.lain_proc
  local live, proc, backend = decide(name, key, tried, fallback)
  if first and proc and load(proc.record) >= M.most then
    visit(key).record = proc.record
    return fail("too_many")
  end
  if track.leaving then -- no acknowledgement speaks for this worker: what it counts must be told before the table it chose by is replaced
    while backend do
      enter(key, backend)
      if current() == live then
        break
      end
      leave(key)
      live, proc, backend = decide(name, key, tried, fallback)
    end
  elseif backend then
    enter(key, backend)
  end
  if not backend then
    local known = proc and proc.record or record
    if known then
      visit(key).record = known
    end
    return fail(first and "no_instances" or "all_failed")
  end
  if first and proc.others > 0 then
    set_more_tries(proc.others)
  end
  if proc.read_timeout then
    set_timeouts(nil, nil, proc.read_timeout)
  end
  return send(key, backend)
end

function M.balance()
  local key = request()
  local record = hand.key == key and hand.record
  hand.key = 0
  if not record or hand.live ~= current() or track.leaving or load(record) >= M.most then
    return weigh(key, record)
  end
  if not record[ADDRESS] then
    local proc = record[PROC]
    if tables.ejected or not proc.even then
      return weigh(key, record)
    end
    local turn, ready = proc.turn, proc.ready
    local at = turn.at % proc.size + 1
    turn.at = at
    record = ready[at]
    set_more_tries(proc.others)
  end
  enter(key, record)
  return send(key, record)
end

return M
