-- nginx itself had to answer (502, 504, 500): say so for the app, and judge the last backend tried, of which the balancer heard no more.
local PEER = require("lain.fields").PEER
local pages = require "lain.pages"
local tables = require "lain.tables"
local track = require "lain.track"

local M = {}
local match = string.match

function M.answer()
  local var = ngx.var
  local status, app, failure = ngx.status, var.lain_app, var.lain_failure
  local backend = track.leave(track.request())
  if backend and match(var.upstream_bytes_sent or "", "(%d+)%s*$") == "0" then
    tables.eject(backend[PEER])
  end
  if failure == "no_instances" then
    return pages.unavailable(app)
  elseif failure == "too_many" then
    return pages.answer(503, "too_many_requests", "App " .. app .. " has more requests waiting for it than this router holds for one app.", 5)
  elseif failure == "timeout" or status == 504 then
    return pages.answer(504, "upstream_timeout", "App " .. app .. " did not answer in time.")
  elseif failure == "all_failed" or status == 502 then
    return pages.answer(502, "upstream_failed", "App " .. app .. " could not be reached, or broke off its answer.", 5)
  end
  return pages.answer(500, "router_error", "The router failed on this request.")
end

return M
