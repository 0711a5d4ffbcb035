-- The original's access log line: fields joined by "@", which is escaped wherever a client could have written it.
local M = {}

local function safe(text)
  if not text or text == "" then
    return "-"
  end
  return (string.gsub(text, '[%c"\\@\127-\255]', function(char)
    return string.format(char == "@" and "%%%02X" or "\\x%02X", string.byte(char))
  end))
end

function M.line()
  local var = ngx.var
  var.lain_legacy = table.concat({
    var.remote_addr or "-",
    safe(var.remote_user),
    "[" .. (var.time_local or "-") .. "]",
    safe(var.http_host),
    '"' .. safe(var.request) .. '"',
    var.status or "-",
    var.body_bytes_sent or "0",
    '"' .. safe(var.http_referer) .. '"',
    safe(var.http_user_agent),
    safe(var.http_x_forwarded_for),
    "upstream_response_time",
    var.upstream_response_time or "-",
    "request_time",
    var.request_time or "-",
  }, "@")
end

return M
