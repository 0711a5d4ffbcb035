-- What is in flight to which address, WebSockets included: how a draining pod is told idle from busy.
--
-- One counter per worker and address in shared memory. Counters of a worker that died count no more: its connections died with it.
local ffi = require "ffi"

local M = {}
local counts = ngx.shared.lain_inflight
local match = string.match

function M.enter(track)
  counts:incr(track, 1, 0)
end

function M.leave(track)
  counts:incr(track, -1, 0)
end

-- address -> requests in flight, only those above 0. Removes counters of workers that are gone.
function M.all()
  local found, alive = {}, {}
  for _, track in ipairs(counts:get_keys(0)) do
    local pid, address = match(track, "^(%d+) (%S+)$")
    if alive[pid] == nil then
      alive[pid] = ffi.C.kill(tonumber(pid), 0) == 0
    end
    if alive[pid] then
      local count = counts:get(track) or 0
      if count > 0 then
        found[address] = (found[address] or 0) + count
      end
    else
      counts:delete(track)
    end
  end
  return found
end

return M
