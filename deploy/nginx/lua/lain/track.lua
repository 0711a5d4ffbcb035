-- Requests under way: which proc and which address each is for, and how many are in flight to each address (WebSockets included): that is how a
-- draining pod is told idle from busy. What became of a request is counted in `traffic.lua` as it leaves here.
--
-- A request is known by its pointer, which internal jumps keep (they lose `ngx.ctx`); the log phase forgets it. Counting costs no lock: each worker
-- counts for itself, and publishes what changed every tick and before it acknowledges a table. Counts of a worker that died count no more.
local base = require "resty.core.base"
local ffi = require "ffi"
local traffic = require "lain.traffic"

local M = {
  procs = {}, -- request -> proc
  backends = {}, -- request -> backend in flight
  attempts = {}, -- request -> {tried, broken}: only of requests that had to be tried again
  paths = {}, -- request -> path of its route, for sticky cookies
  leaving = nil, -- this worker's pid once it only ends what it has: no tick publishes for it any more, so each change is told at once
}
local published = ngx.shared.lain_inflight
local counters = {} -- address -> {address, n, told, dirty}
local dirty = {}
local match, tonumber, cast = string.match, tonumber, ffi.cast
local get_request = base.get_request
local number_type = ffi.typeof("uintptr_t")
local procs, backends, attempts, paths = M.procs, M.backends, M.attempts, M.paths
local count = traffic.count

-- The request in hand, as a key.
local function request()
  return tonumber(cast(number_type, get_request()))
end
M.request = request

-- The counter of an address: one, however many backends and tables name it.
function M.counter(address)
  local counter = counters[address]
  if not counter then
    counter = { address = address, n = 0, told = 0, dirty = false }
    counters[address] = counter
  end
  return counter
end

local function add(backend, change)
  local counter, turn = backend.counter, backend.turn
  counter.n = counter.n + change
  turn.inflight = turn.inflight + change
  if not counter.dirty then
    counter.dirty = true
    dirty[#dirty + 1] = counter
  end
  if M.leaving then
    M.publish(M.leaving)
  end
end

function M.enter(key, backend)
  backends[key] = backend
  add(backend, 1)
end

function M.leave(key)
  local backend = backends[key]
  if backend then
    backends[key] = nil
    add(backend, -1)
  end
  return backend
end

-- The log phase: the request is no more.
function M.done()
  local key = request()
  local backend = backends[key]
  if backend then
    backends[key] = nil
    add(backend, -1)
  end
  if attempts[key] then
    attempts[key] = nil
  end
  if paths[key] then
    paths[key] = nil
  end
  local proc = procs[key]
  if proc then
    procs[key] = nil
    count(proc)
  end
end

-- Tell the other workers what changed.
function M.publish(pid)
  if not dirty[1] then
    return
  end
  for _, counter in ipairs(dirty) do
    counter.dirty = false
    if counter.n ~= counter.told then
      local name = pid .. " " .. counter.address
      if counter.n == 0 then
        published:delete(name)
      else
        published:set(name, counter.n)
      end
      counter.told = counter.n
    end
  end
  dirty = {}
end

-- address -> requests in flight in all workers, only those above 0. Removes what dead workers left.
function M.all()
  local found, alive = {}, {}
  for _, name in ipairs(published:get_keys(0)) do
    local pid, address = match(name, "^(%d+) (%S+)$")
    if alive[pid] == nil then
      alive[pid] = ffi.C.kill(tonumber(pid), 0) == 0
    end
    if alive[pid] then
      found[address] = (found[address] or 0) + (published:get(name) or 0)
    else
      published:delete(name)
    end
  end
  return found
end

return M
