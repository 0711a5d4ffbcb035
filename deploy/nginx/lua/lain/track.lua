-- Requests under way: which proc and which address each is for, and how many are in flight to each address (WebSockets included): that is how a
-- draining pod is told idle from busy. What became of a request is counted in `traffic.lua` as it leaves here.
--
-- A request is known by its pointer, which internal jumps keep (they lose `ngx.ctx`); the log phase forgets it. Counting costs no lock: each worker
-- counts for itself, and publishes what changed every tick and before it acknowledges a table. Counts of a worker that died count no more.
local base = require "resty.core.base"
local ffi = require "ffi"
local fields = require "lain.fields"
local traffic = require "lain.traffic"

local M = {
  held = {}, -- request -> record of the backend it is in flight to
  visits = {}, -- request -> {record, tried, broken, path}: what is to be remembered of the few that need more than that
  hand = { key = 0, live = false, record = false }, -- what the rewrite phase found for the request whose balancer comes next, by which table
  leaving = nil, -- this worker's pid once it only ends what it has: no tick publishes for it any more, so each change is told at once
}
local published = ngx.shared.lain_inflight
local COUNTER, LOAD = fields.COUNTER, fields.LOAD
local match, tonumber, cast = string.match, tonumber, ffi.cast
local get_request = base.get_request
local number_type = ffi.typeof("uintptr_t")
local held, visits, hand = M.held, M.visits, M.hand
local count = traffic.count

-- One counter an address, however many backends and tables name it. They lie side by side: a thousand are a few pages.
local room = 256
local counts, told, marked = ffi.new("int32_t[?]", room), ffi.new("int32_t[?]", room), ffi.new("uint8_t[?]", room)
local numbers, addresses = {}, {} -- address -> number, number -> address
local known = 0
local changed, changes = {}, 0 -- counters that may differ from what was told
-- One a proc as well: what it has in flight in this worker, whichever tables and addresses that began with.
local places = 256
local loads = ffi.new("int32_t[?]", places)
local load_numbers, load_count = {}, 0

-- The request in hand, as a key.
local function request()
  local key = tonumber(cast(number_type, get_request()))
  return key -- a tail call could not be compiled
end
M.request = request

local function larger(array, kind, size)
  local copy = ffi.new(kind, 2 * size)
  ffi.copy(copy, array, ffi.sizeof(kind, size))
  return copy
end

-- The number of an address's counter.
function M.counter(address)
  local number = numbers[address]
  if not number then
    if known == room then
      counts, told, marked = larger(counts, "int32_t[?]", room), larger(told, "int32_t[?]", room), larger(marked, "uint8_t[?]", room)
      room = 2 * room
    end
    number = known
    known = known + 1
    numbers[address], addresses[number] = number, address
  end
  return number
end

-- The number of a proc's own count.
function M.load_of(name)
  local number = load_numbers[name]
  if not number then
    if load_count == places then
      loads = larger(loads, "int32_t[?]", places)
      places = 2 * places
    end
    number = load_count
    load_count = load_count + 1
    load_numbers[name] = number
  end
  return number
end

-- How many requests the proc of `record` has in flight in this worker.
function M.load(record)
  local number = loads[record[LOAD]]
  return number
end

local function add(record, change)
  local number, place = record[COUNTER], record[LOAD]
  counts[number] = counts[number] + change
  loads[place] = loads[place] + change
  if marked[number] == 0 then
    marked[number] = 1
    changes = changes + 1
    changed[changes] = number
  end
  if M.leaving then
    M.publish(M.leaving)
  end
end

function M.enter(key, record)
  held[key] = record
  add(record, 1)
end

-- What is remembered of a request.
local function visit(key)
  local found = visits[key]
  if not found then
    found = {}
    visits[key] = found
  end
  return found
end
M.visit = visit

function M.leave(key)
  local record = held[key]
  if record then
    held[key] = nil
    visit(key).record = record -- whatever happens next, it is a request of that proc
    add(record, -1)
  end
  return record
end

-- The log phase: the request is no more.
function M.done()
  local key = request()
  local record = held[key]
  if record then
    held[key] = nil
    add(record, -1)
  end
  local found = visits[key]
  if found then
    visits[key] = nil
    record = record or found.record
  end
  if hand.key == key then
    hand.key = 0
  end
  if record then
    count(record)
  end
end

-- Tell the other workers what changed.
function M.publish(pid)
  for index = 1, changes do
    local number = changed[index]
    local now = counts[number]
    marked[number] = 0
    if now ~= told[number] then
      local name = pid .. " " .. addresses[number]
      if now == 0 then
        published:delete(name)
      else
        published:set(name, now)
      end
      told[number] = now
    end
  end
  changes = 0
end

-- In a worker that begins: what an earlier process of the same pid left behind is not in flight.
function M.start_worker(pid)
  for _, name in ipairs(published:get_keys(0)) do
    if match(name, "^%d+") == pid then
      published:delete(name)
    end
  end
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
