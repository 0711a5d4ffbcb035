-- The watcher's door, on a unix socket in the folder only it and nginx share.
--   PUT /table   the whole table, JSON lines. Answers the state once every worker has it (or after a second, with who has not).
--                ?replaces=<version>: 409 unless that one is in force (empty: none).
--   GET /state   boot id, table in force, what each worker has acknowledged, what is in flight.
--   GET /traffic what became of the requests of each proc since boot (?since=<now of an earlier answer>: only of those that had any since).
local cjson = require "cjson.safe"
local tables = require "lain.tables"
local traffic = require "lain.traffic"

local M = {}
local meta = ngx.shared.lain_meta
local WAIT_SECONDS, STEP_SECONDS = 1, 0.003

local function reply(status, document)
  ngx.status = status
  ngx.header["Content-Type"] = "application/json"
  ngx.say(cjson.encode(document))
end

-- The oldest table any worker may still route by.
local function applied(workers)
  local wanted, oldest = meta:get("version"), nil
  for _, worker in pairs(workers) do
    local behind = worker.version ~= wanted
    if not oldest or (behind and (oldest.version == wanted or worker.revision < oldest.revision)) then
      oldest = worker
    end
  end
  return oldest or {}
end

local function state()
  local workers = tables.workers()
  local oldest = applied(workers)
  return {
    boot_id = meta:get("boot_id"),
    published = meta:get("version") or cjson.null,
    version = oldest.version or cjson.null,
    revision = oldest.revision or cjson.null,
    workers = workers,
    inflight = tables.inflight(),
    ejected = tables.ejections(),
  }
end

local function body()
  ngx.req.read_body()
  local data = ngx.req.get_body_data()
  if data then
    return data
  end
  local path = ngx.req.get_body_file()
  local file = path and io.open(path, "rb")
  if not file then
    return nil
  end
  data = file:read("*a")
  file:close()
  return data
end

function M.put_table()
  local text = body()
  if not text then
    return reply(400, { error = { code = "invalid", message = "the body is missing" } })
  end
  local version, why, overtaken = tables.publish(text, ngx.var.arg_replaces)
  if overtaken then
    return reply(409, { error = { code = "overtaken", message = why } })
  elseif not version then
    return reply(422, { error = { code = "refused", message = why } })
  end
  tables.current()
  local deadline = ngx.now() + WAIT_SECONDS
  while applied(tables.workers()).version ~= version and ngx.now() < deadline do
    ngx.sleep(STEP_SECONDS)
  end
  return reply(200, state())
end

function M.get_state()
  return reply(200, state())
end

function M.get_traffic()
  return reply(200, traffic.report(tonumber(ngx.var.arg_since)))
end

return M
