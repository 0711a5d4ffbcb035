-- The access phase: which app a request is for, and whether it may go there. Looks names up; never builds configuration from them.
local fields = require "lain.fields"
local pages = require "lain.pages"
local tables = require "lain.tables"
local track = require "lain.track"

local M = { hsts = "" }
local current = tables.current
local byte, sub, find, match, gsub, format = string.byte, string.sub, string.find, string.match, string.gsub, string.format
local request, visit, hand = track.request, track.visit, track.hand
local get_method = ngx.req.get_method
local APP, NAME, POOL = fields.APP, fields.NAME, fields.POOL
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

local BODIES = { POST = true, PUT = true, PATCH = true }

-- Whether a body follows whose length nobody knows yet. HTTP/2 announces none: there the method has to tell.
local function is_open_ended(var, method)
  return var.http_transfer_encoding ~= nil or (BODIES[method] and ngx.req.http_version() >= 2)
end

-- The page for a request whose body is larger than the proc accepts, or could be; nil: it is not.
local function refusal(limit, var, method)
  local length = tonumber(var.http_content_length)
  if length then
    if length > limit then
      return 413, "too_large", "The request's body is larger than the " .. limit .. " bytes this app accepts."
    end
  elseif is_open_ended(var, method) then
    return 411, "length_required", "This app limits request bodies: send a Content-Length."
  end
end

-- Bodies are streamed when the app asks for it; else only those that are large or of unknown length.
local function streams(proc, var, method)
  if proc.buffering ~= nil then
    return not proc.buffering
  end
  local length = tonumber(var.http_content_length)
  if length then
    return length > STREAM_BYTES
  end
  return is_open_ended(var, method)
end

-- The upstream that has the idle connections to a proc's backends.
local function pool(live, proc)
  return live.pooled and proc.pool or "lain"
end

-- The site and the route a request belongs to; or the code of the page that says why there is none.
local function find_route(live, var, host, external)
  local site = host and (live.memo[host] or tables.site(live, host))
  if not site or (external and site.internal) then
    return nil, nil, "unknown_host"
  elseif var.host ~= site.name then -- RFC 9112, 3.2.2: whoever stands before us may have gone by the other one
    return nil, nil, "two_hosts"
  end
  local route = site.paths and longest(site, var.uri) or site.root
  return site, route, not route and "no_route"
end

-- What a route that strips its prefix passes on, or nil for the bare prefix.
local function passed_on(var, route)
  local uri, length = var.uri, route.strip
  if #uri > length then
    return stripped(uri, var.request_uri, route.path, length)
  end
end

-- The record for a request that needs more than one look-up and yet no page: nil where it does.
local function settle(live, var, host, external)
  local site, route = find_route(live, var, host, external)
  local proc = route and route.proc
  if not proc or not proc.up or proc.buffering == false then
    return nil
  end
  if route.https_only and site.tls then
    if var.lain_proto ~= "https" then
      return nil
    end
    if M.hsts ~= "" then
      var.lain_hsts = M.hsts
    end
  end
  if proc.max_body and refusal(proc.max_body, var, get_method()) then
    return nil
  end
  if route.strip > 0 then
    local rest = passed_on(var, route)
    if not rest then
      return nil
    end
    var.lain_to = pool(live, proc) .. rest
    if proc.sticky then
      visit(request()).path = route.path
    end
  elseif live.pooled then
    var.lain_to = proc.pool
  end
  return proc.record
end

-- In nginx's rewrite phase, which costs no coroutine: the app whose backend gets the request, or "" when a page or a stream has to be made of it;
-- `access` then does. ("web" is what most procs are called: only other names are told to the log.)
local function assign(external)
  local live, var = current(), ngx.var
  local host = var.http_host
  if not live or not host then
    return ""
  end
  local record = var.host == host and (external and live.outside or live.direct)[host]
  if not record then
    record = settle(live, var, host, external)
    if not record then
      return ""
    end
  elseif live.pooled then
    var.lain_to = record[POOL]
  end
  local name = record[NAME]
  if name then
    var.lain_named_proc = name
  end
  hand.key, hand.live, hand.record = request(), live, record
  return record[APP]
end

-- Of requests without a body.
M.fast = assign

-- Of those with one whose length is told. Until it is there, others may be in hand.
function M.bodied(external)
  if tonumber(ngx.var.content_length) > STREAM_BYTES then
    return ""
  end
  local app = assign(external)
  if app ~= "" then
    visit(hand.key).record = hand.record
  end
  return app
end

local refusals = {
  unknown_host = { 404, "No app answers at this host name." },
  no_route = { 404, "No app answers at this path of this host." },
  two_hosts = { 400, "The request's target names another host than its Host header." },
}

-- The access phase of all others.
function M.access()
  local live = current()
  if not live then
    return pages.answer(503, "no_table", "This router has not learned any route yet.", 5)
  end
  local var, key = ngx.var, request()
  if hand.key == key then
    hand.key = 0
  end
  local site, route, code = find_route(live, var, var.http_host, var.lain_external == "1")
  if code then
    return pages.answer(refusals[code][1], code, refusals[code][2])
  end
  local proc = route.proc
  local known = visit(key)
  known.record = proc.record
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
  var.lain_to = pool(live, proc)
  if route.strip > 0 then
    local rest = passed_on(var, route)
    if not rest then
      return pages.redirect(route.path .. "/" .. (match(var.request_uri, "%?.*") or ""))
    end
    var.lain_to = pool(live, proc) .. rest
    known.path = route.path
  end
  if not proc.up then
    return pages.unavailable(proc.app)
  end
  local method = get_method()
  if proc.max_body then
    local status, why, message = refusal(proc.max_body, var, method)
    if status then
      return pages.answer(status, why, message)
    end
  end
  if streams(proc, var, method) then
    return ngx.exec("@stream")
  end
end

return M
