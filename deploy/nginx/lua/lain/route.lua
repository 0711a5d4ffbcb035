-- The access phase: which app a request is for, and whether it may go there. Looks names up; never builds configuration from them.
local tables = require "lain.tables"
local pages = require "lain.pages"
local track = require "lain.track"

local M = { hsts = "" }
local current = tables.current
local byte, sub, find, match, gsub, format = string.byte, string.sub, string.find, string.match, string.gsub, string.format
local request, procs = track.request, track.procs
local get_method = ngx.req.get_method
local SLASH = byte("/")
local STREAM_BYTES = 1048576

-- Longest prefix on whole segments: /x matches /x and /x/y, never /xy.
local function longest(site, uri)
  local paths, prefix = site.paths, uri
  while #prefix > 1 do
    local route = paths[prefix]
    if route then
      return route
    end
    local cut = #prefix
    while byte(prefix, cut) ~= SLASH do
      cut = cut - 1
    end
    prefix = sub(prefix, 1, cut - 1)
  end
  return site.root
end

local function escape(path)
  return (gsub(path, "[^%w%-%._~!$&'%(%)%*%+,;=:@/]", function(char)
    return format("%%%02X", byte(char))
  end))
end

-- The request's URI without the route's prefix, as the client wrote it where that is possible.
local function stripped(uri, raw, prefix, length)
  local mark = find(raw, "?", 1, true)
  local raw_path = mark and sub(raw, 1, mark - 1) or raw
  local query = mark and sub(raw, mark) or ""
  if raw_path == uri then
    return sub(raw, length + 1)
  end
  local odd = find(raw_path, "//", 1, true) or find(raw_path, "/.", 1, true) or find(raw_path, "%%2[eE]")
  if not odd and sub(raw_path, 1, length + 1) == prefix .. "/" then
    return sub(raw, length + 1) -- escapes such as %2F reach the app as they were sent
  end
  return escape(sub(uri, length + 1)) .. query
end

local function too_large(limit)
  local length = tonumber(ngx.var.http_content_length)
  if length then
    if length > limit then
      return pages.answer(413, "too_large", "The request's body is larger than the " .. limit .. " bytes this app accepts.")
    end
  elseif ngx.var.http_transfer_encoding or (ngx.req.http_version() >= 2 and ngx.get_method() ~= "GET") then
    return pages.answer(411, "length_required", "This app limits request bodies: send a Content-Length.")
  end
end

-- Bodies are streamed when the app asks for it; else only those that are large or of unknown length.
local function streams(proc, var)
  if proc.buffering ~= nil then
    return not proc.buffering
  end
  local method = get_method()
  if method == "GET" or method == "HEAD" then
    return false
  end
  local length = tonumber(var.http_content_length)
  return (length and length > STREAM_BYTES) or (not length and var.http_transfer_encoding ~= nil)
end

-- Most requests need one look-up and a backend: this decides in nginx's rewrite phase, which costs no coroutine. The app's name, or "" when there is
-- more to decide; `access` then does. ("web" is what most procs are called: only other names are told to the log.)
function M.fast()
  local live, var = current(), ngx.var
  local host = var.http_host
  local site = live and host and live.memo[host]
  local proc = site and site.fast
  if not proc or var.host ~= site.name then
    return ""
  end
  local method = get_method()
  if method ~= "GET" and method ~= "HEAD" then
    local length = var.http_content_length
    if not length or #length > 6 then
      return ""
    end
  end
  if proc.name ~= "web" then
    var.lain_named_proc = proc.name
  end
  procs[request()] = proc
  return proc.app
end

-- The access phase of all others.
function M.access()
  local live = current()
  if not live then
    return pages.answer(503, "no_table", "This router has not learned any route yet.", 5)
  end
  local var = ngx.var
  local host = var.http_host
  local site = host and (live.memo[host] or tables.site(live, host))
  if not site or (site.internal and var.lain_external == "1") then
    return pages.answer(404, "unknown_host", "No app answers at this host name.")
  end
  if var.host ~= site.name then -- RFC 9112, 3.2.2: whoever stands before us may have gone by the other one
    return pages.answer(400, "two_hosts", "The request's target names another host than its Host header.")
  end
  local uri = var.uri
  local route = site.paths and longest(site, uri) or site.root
  if not route then
    return pages.answer(404, "no_route", "No app answers at this path of this host.")
  end
  local proc = route.proc
  var.lain_app, var.lain_named_proc = proc.app, proc.name
  if route.https_only and site.tls then
    if var.lain_proto ~= "https" then
      local port = live.header.https_port
      local authority = site.name .. ((port and port ~= 443) and ":" .. port or "")
      return pages.redirect("https://" .. authority .. var.request_uri)
    end
    if M.hsts ~= "" then
      var.lain_hsts = M.hsts
    end
  end
  local length = route.strip
  if length > 0 then
    local raw = var.request_uri
    if #uri == length then
      return pages.redirect(route.path .. "/" .. (match(raw, "%?.*") or ""))
    end
    var.lain_uri = stripped(uri, raw, route.path, length)
  end
  local key = request()
  procs[key] = proc
  if not proc.ready[1] and not proc.suspect[1] then
    return pages.unavailable(proc.app)
  end
  if proc.max_body then
    too_large(proc.max_body)
  end
  if proc.sticky then
    track.paths[key] = route.path
  end
  if streams(proc, var) then
    return ngx.exec("@stream")
  end
end

return M
