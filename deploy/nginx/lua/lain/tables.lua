-- The table nginx routes by: JSON lines, written by the watcher, held as text in a shared dict and decoded once in every worker.
--
-- A request asks `current()`: one look at a number in shared memory; only when that moved does the worker read the text again, and
-- then it decodes only the lines it has not seen. A worker that has the table says so (`workers` dict): that is the
-- acknowledgement. Because a worker runs one thing at a time, once it said so no request of it can still choose by an older table.
local cjson = require "cjson.safe"
local ffi = require "ffi"
local PEER = require("lain.fields").PEER
local track = require "lain.track"
local traffic = require "lain.traffic"

local M = { ejected = nil }

local LOOK_SECONDS = 0.025 -- how soon an idle worker notices a new table
local EJECT_SECONDS = 10
local PUBLISH_SECONDS = 1 -- who publishes and dies of it holds up others for so long
local MEMO_LIMIT = 10000
local MAX_TRIES = 5
local POOLED_FROM = 64 -- backends: so many have their idle connections in one pool
local MAX_HOST = 260 -- a name of 253, a dot, a port: no other can be one of ours

local meta = ngx.shared.lain_meta -- seq, seq_at, version, slot, boot_id
local texts = ngx.shared.lain_table -- two slots, written in turn: a full dict never costs us the table in force
local workers = ngx.shared.lain_workers -- pid -> "version revision"
local ejections = ngx.shared.lain_ejected -- "address:port" -> when it ends

local sub, find, lower, match, gsub, format = string.sub, string.find, string.lower, string.match, string.gsub, string.format

ffi.cdef [[
int kill(int pid, int sig);
void *mmap(void *at, size_t length, int protection, int flags, int file, long offset);
]]
local READ_WRITE, SHARED_ANONYMOUS = 3, 0x21

local clock -- shared memory of all workers: the sequence number of the last change
local live -- the table in force in this worker
local fresh -- a table this worker published itself: already decoded
local seq_seen
local turns = {} -- proc key -> its round robin, which outlives a swap
local pid_text = "0"
local pools = {} -- names of the upstreams that share the idle connections where backends are many

local function unusable(number, why)
  return nil, "line " .. number .. ": " .. why
end

local function is_text(value)
  return type(value) == "string"
end

-- The flat array a request reads; see `fields.lua`.
local function record_of(proc, address, port, peer, cookie)
  local name = proc.name ~= "web" and proc.name
  local counter = address and track.counter(address) or 0
  return { counter, proc, address, port, proc.app, false, 0, name, proc.pool, track.load_of(proc.key), peer, cookie }
end

local function backends(proc, peers)
  local list = {}
  for i, peer in ipairs(peers) do
    local address, port = match(peer, "^([%d.]+):(%d+)$")
    assert(address, "a peer that is no address and port")
    local cookie = string.format("%08x", ngx.crc32_long(proc.key .. " " .. peer))
    list[i] = record_of(proc, address, tonumber(port), peer, cookie)
  end
  return list
end

local function read_proc(line)
  local app, name = line.proc[1], line.proc[2]
  assert(is_text(app) and is_text(name), "a proc without names")
  local proc = { key = app .. "/" .. name, app = app, name = name, routes = line.routes }
  proc.pool = pools[ngx.crc32_short(proc.key) % #pools + 1]
  proc.ready = backends(proc, line.ready)
  proc.suspect = backends(proc, line.suspect)
  local options = line.options or {}
  proc.read_timeout = options.read_timeout_seconds
  proc.max_body = options.max_body_bytes
  assert(type(proc.read_timeout or 0) == "number" and type(proc.max_body or 0) == "number", "an option that is no number")
  proc.buffering = options.buffering
  proc.sticky = options.sticky and ("lain_" .. format("%08x", ngx.crc32_long(proc.key))) or nil
  proc.size = #proc.ready
  proc.others = math.min(math.max(proc.size + #proc.suspect - 1, 0), MAX_TRIES - 1)
  proc.up = proc.size + #proc.suspect > 0
  proc.even = proc.size > 0 and not proc.sticky and not proc.read_timeout -- nothing to weigh: whose turn it is
  local sole = proc.even and proc.others == 0
  proc.record = sole and proc.ready[1] or record_of(proc, false, 0, false, false)
  proc.simple = proc.up and not proc.max_body and proc.buffering ~= false
  for _, route in ipairs(proc.routes) do
    assert(is_text(route.host) and is_text(route.path), "a route without host or path")
    route.proc = proc
    route.strip = route.path ~= "/" and #route.path or 0
  end
  return proc
end

local function read_header(line)
  assert(is_text(line.version) and type(line.revision) == "number" and type(line.lines) == "number", "a header without its numbers")
  for _, domain in ipairs(line.domains or {}) do
    assert(is_text(domain), "a domain that is no text")
  end
  return line
end

local function read_certificate(line)
  assert(is_text(line.certificate) and is_text(line.cert) and is_text(line.key), "a certificate without chain or key")
  return line
end

local readers = { header = read_header, proc = read_proc, certificate = read_certificate }

local function read_line(text)
  local line, why = cjson.decode(text)
  if type(line) ~= "table" then
    return nil, why or "not an object"
  end
  local kind = line.lain_table and "header" or line.proc and "proc" or line.certificate and "certificate"
  if not kind then
    return nil, "neither header, proc nor certificate"
  end
  local ok, record = pcall(readers[kind], line)
  if not ok then
    return nil, record
  end
  return { kind = kind, record = record }
end

local function add_routes(index, proc)
  for _, route in ipairs(proc.routes) do
    local site = index.sites[route.host]
    if not site then
      site = { host = route.host }
      index.sites[route.host] = site
    end
    if route.strip == 0 then
      site.root = site.root or route
    else
      site.paths = site.paths or {}
      site.paths[route.path] = site.paths[route.path] or route
    end
  end
end

-- Whether the table names more backends than one pool of idle connections is good for.
local function are_many(procs)
  local seen, count = {}, 0
  for _, proc in pairs(procs) do
    for _, backend in ipairs(proc.ready) do
      local peer = backend[PEER]
      if not seen[peer] then
        seen[peer], count = true, count + 1
        if count > POOLED_FROM then
          return true
        end
      end
    end
  end
  return false
end

local function decoded(text, before)
  local index = { lines = {}, sites = {}, procs = {}, certificates = {}, memo = {}, direct = {}, outside = {}, memoized = 0 }
  local known = before and before.lines or {}
  local number, from, size = 0, 1, #text
  while from <= size do
    local to = find(text, "\n", from, true) or size + 1
    local piece = sub(text, from, to - 1)
    from = to + 1
    number = number + 1
    local line, why = known[piece], nil
    if not line then
      line, why = read_line(piece)
      if not line then
        return unusable(number, why)
      end
    end
    index.lines[piece] = line
    local record = line.record
    if line.kind == "header" then
      if number ~= 1 or record.lain_table ~= 1 then
        return unusable(number, "not a header this nginx can read")
      end
      index.header, index.version, index.revision = record, record.version, record.revision
    elseif line.kind == "proc" then
      local turn = turns[record.key]
      if not turn then
        turn = { at = math.random(0, 1023) }
        turns[record.key] = turn
      end
      record.turn = turn
      index.procs[record.key] = record
      add_routes(index, record)
    else
      index.certificates[record.certificate] = record
    end
  end
  if not index.header then
    return nil, "the table is empty"
  end
  if index.header.lines ~= number then
    return nil, "the table is cut: " .. number .. " of " .. tostring(index.header.lines) .. " lines"
  end
  index.pooled = before ~= nil and before.pooled or are_many(index.procs) -- for good: to and fro would cost all idle connections
  return index
end

-- The decoded table, or nil and why it cannot be used. `before` lends the lines that did not change.
local function decode(text, before)
  local ok, index, why = pcall(decoded, text, before)
  if not ok then
    return nil, tostring(index)
  end
  return index, why
end

local function wildcard(name)
  local dot = find(name, ".", 1, true)
  return dot and "*" .. sub(name, dot) or nil
end

-- The certificate for a server name: exact, else the wildcard of one label.
function M.certificate(index, name)
  local exact = index.certificates[name]
  if exact then
    return exact
  end
  local pattern = wildcard(name)
  return pattern and index.certificates[pattern]
end

function M.has_host(index, name)
  local pattern = wildcard(name)
  return index.sites[name] ~= nil or (pattern ~= nil and index.sites[pattern] ~= nil)
end

local function is_internal(index, name)
  for _, domain in ipairs(index.header.domains or {}) do
    if name == domain or sub(name, -#domain - 1) == "." .. domain then
      return true
    end
  end
  return false
end

-- What a Host header leads to: {name, root, paths, tls, internal}, or nil. Answers are remembered by the raw header. Where the backend is all there
-- is to decide, its record is remembered too: in `direct`, and in `outside` if the host exists on external ports.
function M.site(index, raw)
  if #raw > MAX_HOST then
    return nil -- it would be remembered at that length
  end
  local name = gsub(gsub(lower(raw), ":%d*$", ""), "%.$", "")
  local pattern = wildcard(name)
  local site = index.sites[name] or (pattern and index.sites[pattern])
  if not site then
    return nil
  end
  local found = {
    name = name,
    root = site.root,
    paths = site.paths,
    tls = M.certificate(index, name) ~= nil,
    internal = is_internal(index, name),
  }
  if index.memoized >= MEMO_LIMIT then
    index.memo, index.direct, index.outside, index.memoized = {}, {}, {}, 0
  end
  index.memo[raw], index.memoized = found, index.memoized + 1
  local root = site.root
  if root and not site.paths and not (root.https_only and found.tls) and root.proc.simple then
    local record = root.proc.record
    index.direct[raw] = record
    index.outside[raw] = not found.internal and record or nil
  end
  return found
end

local function acknowledge()
  if live and pid_text ~= "0" and not track.leaving then -- nobody would renew it
    workers:set(pid_text, live.version .. " " .. live.revision)
  end
end

local function read_ejections()
  local now, found = ngx.now(), nil
  for _, peer in ipairs(ejections:get_keys(0)) do
    local ends = ejections:get(peer)
    if ends and ends > now then
      found = found or {}
      found[peer] = ends
    end
  end
  M.ejected = found
end

local function refresh(seq)
  read_ejections()
  local version = meta:get("version")
  if version and (not live or live.version ~= version) then
    local index, why = fresh, nil
    if not index or index.version ~= version then
      index, why = decode(texts:get(meta:get("slot")) or "", live)
    end
    fresh = nil
    if not index then
      ngx.log(ngx.ERR, "the table in shared memory is unusable: ", why) -- keep the last good one, acknowledge nothing
      return
    end
    live = index
    for key in pairs(turns) do
      if not index.procs[key] then
        turns[key] = nil
      end
    end
  end
  seq_seen = seq
  track.publish(pid_text) -- what was chosen by the older table counts as in flight before this worker says that it has the new one
  acknowledge()
end

-- Everything a change needs is in the dicts before the number moves.
local function announce()
  clock[0] = meta:incr("seq", 1, 0)
end

local function shared_clock()
  local at = meta:get("seq_at")
  if not at then
    local page = ffi.C.mmap(nil, 4096, READ_WRITE, SHARED_ANONYMOUS, -1, 0)
    at = tonumber(ffi.cast("uintptr_t", page))
    assert(tonumber(ffi.cast("intptr_t", page)) ~= -1, "no memory to share")
    meta:set("seq_at", at) -- a reload's workers must look at the same page: the master keeps it for life
  end
  return ffi.cast("volatile uint32_t *", ffi.cast("uintptr_t", at))
end

-- The table in force, never older than the newest one published before this call; nil before the first.
function M.current()
  local seq = clock[0]
  if seq ~= seq_seen then
    refresh(seq)
  end
  return live
end

-- Make `text` the table of all workers, if `replaces` is the version in force ("": none; nil: whichever): a request that a stalled worker comes to late
-- must not bring an older table back. Returns its version and revision, or nil, why it was refused, and whether it was for that (nothing changed then).
function M.publish(text, replaces)
  local index, why = decode(text, M.current())
  if not index then
    return nil, why
  end
  while not meta:add("publishing", 1, PUBLISH_SECONDS) do -- by another worker, at this moment
    ffi.C.usleep(100)
  end
  if replaces and replaces ~= (meta:get("version") or "") then
    meta:delete("publishing")
    return nil, "another table is in force than the one it replaces", true
  end
  local target = meta:get("slot") == "text0" and "text1" or "text0"
  local ok, err = texts:safe_set(target, text)
  if ok then
    fresh = index
    meta:set("slot", target)
    meta:set("version", index.version)
  end
  meta:delete("publishing")
  if not ok then
    return nil, "no room for the table: " .. err
  end
  announce()
  return index.version, index.revision
end

-- A connection to `peer` failed: no worker sends it anything for a while, unless all others look bad too.
function M.eject(peer)
  if M.ejected and (M.ejected[peer] or 0) > ngx.now() then
    return
  end
  ejections:set(peer, ngx.now() + EJECT_SECONDS, EJECT_SECONDS)
  announce()
  ngx.log(ngx.WARN, "backend ", peer, " refuses connections: out of rotation for ", EJECT_SECONDS, " s")
end

function M.ejections()
  read_ejections()
  return M.ejected or {}
end

local function is_alive(pid)
  return ffi.C.kill(tonumber(pid), 0) == 0
end

-- Every worker that takes requests: pid -> {version, revision}.
function M.workers()
  local found = {}
  for _, pid in ipairs(workers:get_keys(0)) do
    local text = workers:get(pid)
    if text and is_alive(pid) then
      local version, revision = match(text, "^(%S+) (%d+)$")
      found[pid] = { version = version, revision = tonumber(revision) }
    elseif text then
      workers:delete(pid)
    end
  end
  return found
end

-- What is in flight in all workers: address -> requests.
function M.inflight()
  track.publish(pid_text)
  return track.all()
end

-- In the master, before it forks: the last table the watcher left on disk. A reload keeps what shared memory has.
function M.load(path, names)
  pools = names
  clock = shared_clock()
  traffic.load()
  if meta:get("boot_id") then
    return
  end
  local source = assert(io.open("/proc/sys/kernel/random/uuid"))
  meta:set("boot_id", match(source:read("*a"), "%S+"))
  source:close()
  local file = io.open(path, "rb")
  if not file then
    ngx.log(ngx.NOTICE, "there is no table yet at ", path)
    return
  end
  local text = file:read("*a")
  file:close()
  local version, why = M.publish(text)
  if not version then
    ngx.log(ngx.ERR, "the table at ", path, " is unusable: ", why)
  end
end

-- In each worker: know the table before the first request, and notice a new one though no request comes.
function M.start_worker()
  pid_text = tostring(ngx.worker.pid())
  math.randomseed(ngx.worker.pid() + ngx.now() * 1000)
  live, fresh, seq_seen, turns = nil, nil, nil, {} -- what the master decoded carries the master's pid
  track.start_worker(pid_text)
  M.current()
  traffic.start_worker()
  assert(ngx.timer.every(LOOK_SECONDS, function(premature)
    if premature then -- this worker takes no more connections, but ends its requests, some of which may not have their backend yet
      track.leaving = pid_text
      track.publish(pid_text)
      workers:delete(pid_text)
    else
      M.current()
      track.publish(pid_text)
    end
  end))
end

return M
