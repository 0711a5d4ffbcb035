-- What became of the requests of each proc: how many, which went wrong by whose fault, how long they took. The watcher makes a release's loss report
-- of it, so nothing here may be guessed: what cannot be counted is told as such.
--
-- Counts live in memory that all workers share. Each worker writes in a region of its own, so counting takes no lock, is seen at once, and outlives
-- the worker: its heir goes on in the same region. Counts only grow, from the start of the master on. A request counts when it ends.
local ffi = require "ffi"
local fields = require "lain.fields"

local M = {}

local REGIONS, SLOTS, BUCKETS, NAME = 64, 4096, 144, 128 -- memory is taken only where something is counted: about 1.4 KiB a proc and worker
local MAX_MS = 1048575
local LOCK_SECONDS = 0.5
local MARGIN_SECONDS = 5 -- a worker's clock stands still while it is busy
local READ_WRITE, SHARED_ANONYMOUS_LAZY = 3, 0x4021

ffi.cdef [[
int usleep(unsigned int microseconds);
typedef struct {
  double born;  // unlike that of any other slot; 0: not to be read
  double last;  // when it counted last, by nginx's clock
  double requests;
  double errors;  // 5xx of the router's own (nobody could be reached, or who was gave no answer), and answers their backend broke off
  double app_errors;  // 5xx as the app answered it
  double aborted;  // the client left before it had its answer
  double buckets[144];
  char name[128];  // app/proc
} lain_traffic_slot;
typedef struct {
  volatile double owner;  // pid of the worker that writes here; 0: never used
  volatile double used;
  lain_traffic_slot slots[4096];
} lain_traffic_region;
]]

local meta = ngx.shared.lain_meta -- traffic_at, traffic_lock, traffic_born, traffic_uncounted
local find, match, floor, tonumber = string.find, string.match, math.floor, tonumber
local rshift = require("bit").rshift
local now, start_time, header = ngx.now, ngx.req.start_time, ngx.header

local regions -- of all workers
local region -- of this one; nil: there is none for it
local slots = {} -- proc's key -> its slot in this worker's region
local epoch = 1 -- another whenever a slot was taken from a proc: what records remember of slots is void then
local full_until = 0
local PROC, SLOT, EPOCH = fields.PROC, fields.SLOT, fields.EPOCH

local function is_alive(pid)
  return ffi.C.kill(pid, 0) == 0
end

-- Latencies in whole milliseconds, each within 6.25 % of its bucket's middle: 0..15 exactly, then eight buckets to each doubling. Without a loop,
-- which would keep LuaJIT from compiling whoever counts: how often to halve is read from the number's exponent.
local bits = ffi.new("union { double number; uint32_t words[2]; }")
local function bucket(ms)
  if ms > MAX_MS then
    ms = MAX_MS
  elseif ms < 16 then
    return ms
  end
  bits.number = ms
  local halvings = rshift(bits.words[1], 20) - 1026
  return rshift(ms, halvings) + 8 * halvings
end
M.bucket = bucket

-- A slot that may be taken from a proc the table no longer has: the one longest idle.
local function reclaim()
  local live = require("lain.tables").current()
  local found
  for index = 0, SLOTS - 1 do
    local slot = region.slots[index]
    if not (live and live.procs[ffi.string(slot.name)]) and (not found or slot.last < found.last) then
      found = slot
    end
  end
  if found then
    slots[ffi.string(found.name)] = nil
    epoch = epoch + 1
  end
  return found
end

local function uncounted()
  meta:incr("traffic_uncounted", 1, 0)
  return nil
end

-- A slot for a proc this worker has not counted for yet, or nil.
local function take(key)
  if not region or #key >= NAME or full_until > now() then
    return uncounted()
  end
  local slot
  local used = region.used
  if used < SLOTS then
    slot = region.slots[used]
  else
    slot = reclaim()
    if not slot then
      full_until = now() + 1
      return uncounted()
    end
  end
  local born = meta:incr("traffic_born", 1, 0)
  if not born then
    return nil
  end
  slot.born = 0
  ffi.fill(slot, ffi.sizeof(slot))
  ffi.copy(slot.name, key)
  slot.born = born
  if used < SLOTS then
    region.used = used + 1
  end
  slots[key] = slot
  return slot
end

-- Whose fault: nginx notes when the header of each attempt's answer came, and "-" where none did.
local function failed(slot, status)
  if status == 499 then
    slot.aborted = slot.aborted + 1
    return
  end
  local headers = ngx.var.upstream_header_time
  if headers and find(headers, "[%d.]+%s*$") then
    slot.app_errors = slot.app_errors + 1
  else
    slot.errors = slot.errors + 1
  end
end

-- Fewer bytes came from the backend than it had announced: who broke off? (Where it announced no length, nginx lets us see nothing.)
local function cut(slot, status)
  local var = ngx.var
  local declared = tonumber(var.upstream_http_content_length)
  local got = match(var.upstream_response_length or "", "(%d+)%s*$") -- of the last attempt
  if not declared or status == 304 or var.request_method == "HEAD" or not got or tonumber(got) >= declared then
    return
  elseif var.request_completion == "OK" then
    slot.errors = slot.errors + 1
  else
    slot.aborted = slot.aborted + 1
  end
end

local function slot_of(record)
  local key = record[PROC].key
  local slot = slots[key] or take(key)
  if slot then
    record[SLOT], record[EPOCH] = slot, epoch
  end
  return slot
end

-- The log phase of a request for the proc of `record`.
function M.count(record)
  local slot = record[EPOCH] == epoch and record[SLOT] or slot_of(record)
  if not slot then
    return
  end
  local ended, status = now(), ngx.status
  slot.last = ended
  slot.requests = slot.requests + 1
  if status >= 499 then
    failed(slot, status)
  elseif status == 101 then
    return -- how long a WebSocket lived says nothing
  else
    local announced = header.content_length
    if announced and ngx.var.body_bytes_sent ~= announced then -- what the client got whole its backend gave whole
      cut(slot, status)
    end
  end
  local ms = (ended - start_time()) * 1000 + 0.5
  local index = bucket(ms > 0 and floor(ms) or 0)
  slot.buckets[index] = slot.buckets[index] + 1
end

-- In the master, before it forks. A reload's workers must look at the same memory: the master keeps it for life.
function M.load()
  local at = meta:get("traffic_at")
  if not at then
    local memory = ffi.C.mmap(nil, REGIONS * ffi.sizeof("lain_traffic_region"), READ_WRITE, SHARED_ANONYMOUS_LAZY, -1, 0)
    if tonumber(ffi.cast("intptr_t", memory)) == -1 then
      ngx.log(ngx.ERR, "no memory to count traffic in: it is not counted")
      return
    end
    at = tonumber(ffi.cast("uintptr_t", memory))
    meta:set("traffic_at", at)
  end
  regions = ffi.cast("lain_traffic_region *", ffi.cast("uintptr_t", at))
end

-- In each worker: a region for itself, a dead worker's before a fresh one.
function M.start_worker()
  region, slots, full_until, epoch = nil, {}, 0, epoch + 1
  if not regions then
    return
  end
  local pid = ngx.worker.pid()
  while not meta:add("traffic_lock", pid, LOCK_SECONDS) do
    ffi.C.usleep(200)
  end
  for index = 0, REGIONS - 1 do
    local owner = regions[index].owner
    if owner == 0 or not is_alive(owner) then
      region = regions[index]
      region.owner = pid
      break
    end
  end
  meta:delete("traffic_lock")
  if not region then
    ngx.log(ngx.ERR, "more than ", REGIONS, " workers: this one counts no traffic")
    return
  end
  for index = 0, region.used - 1 do
    local slot = region.slots[index]
    slots[ffi.string(slot.name)] = slot
  end
end

local COUNTS = { "requests", "errors", "app_errors", "aborted" }

local function add(sum, slot, born)
  local seen, buckets = {}, {}
  for _, field in ipairs(COUNTS) do
    seen[field] = slot[field]
  end
  for index = 0, BUCKETS - 1 do
    local count = slot.buckets[index]
    if count > 0 then
      buckets[index] = count
    end
  end
  if born == 0 or slot.born ~= born then
    return -- it is being given to another proc
  end
  sum.slots[#sum.slots + 1] = born
  for field, count in pairs(seen) do
    sum[field] = (sum[field] or 0) + count
  end
  for index, count in pairs(buckets) do
    local text = tostring(index)
    sum.latency[text] = (sum.latency[text] or 0) + count
  end
end

local function each_slot(visit)
  for number = 0, regions and REGIONS - 1 or -1 do
    local one = regions[number]
    if one.owner ~= 0 then
      for index = 0, one.used - 1 do
        local slot = one.slots[index]
        visit(slot, slot.born)
      end
    end
  end
end

-- The counts of all workers, of procs that counted something since `since` (nginx's clock; nil: of all). A proc's `slots` tell whether its counts
-- go on from what they were: then they hold those of before. So a proc is told with all its slots, those that were idle since too.
function M.report(since)
  local at, found = now(), {}
  each_slot(function(slot, born)
    if born ~= 0 and (not since or slot.last >= since - MARGIN_SECONDS) then
      found[ffi.string(slot.name)] = { slots = {}, latency = {} }
    end
  end)
  if next(found) then
    each_slot(function(slot, born)
      local sum = found[ffi.string(slot.name)]
      if sum then
        add(sum, slot, born)
      end
    end)
  end
  for name, sum in pairs(found) do
    if not sum.slots[1] then
      found[name] = nil
    end
  end
  return { boot_id = meta:get("boot_id"), now = at, uncounted = meta:get("traffic_uncounted") or 0, procs = found }
end

return M
