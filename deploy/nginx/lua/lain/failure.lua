-- nginx itself had to answer (502, 504, 500): say so for the app. The jump here lost the request's context, so the last address tried is read
-- back from nginx's own record, to end its accounting and to eject it when it refused the connection.
local pages = require "lain.pages"
local tables = require "lain.tables"
local track = require "lain.track"

local M = {}
local match = string.match

local function last(list)
  return match(list or "", "([^%s,]+)%s*$")
end

function M.answer()
  local var = ngx.var
  local status, app, failure = ngx.status, var.lain_app, var.lain_failure
  local peer = last(var.upstream_addr)
  local address = peer and match(peer, "^([%d%.]+):%d+$")
  if address and failure == "" then
    track.leave(tables.pid() .. " " .. address)
    if last(var.upstream_bytes_sent) == "0" then
      tables.eject(peer)
    end
  end
  if failure == "no_instances" then
    return pages.unavailable(app)
  elseif failure == "timeout" or status == 504 then
    return pages.answer(504, "upstream_timeout", "App " .. app .. " did not answer in time.")
  elseif failure == "all_failed" or status == 502 then
    return pages.answer(502, "upstream_failed", "App " .. app .. " could not be reached, or broke off its answer.", 5)
  end
  return pages.answer(500, "router_error", "The router failed on this request.")
end

return M
