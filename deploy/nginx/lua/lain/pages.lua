-- What people and programs see when a request cannot be answered by an app: which app, why, and the id to ask for in the logs.
local cjson = require "cjson.safe"

local M = {}
local escapes = { ["&"] = "&amp;", ["<"] = "&lt;", [">"] = "&gt;", ['"'] = "&quot;", ["'"] = "&#39;" }

local titles = {
  [404] = "Not found",
  [411] = "Length required",
  [413] = "Too large",
  [500] = "Router error",
  [502] = "Bad gateway",
  [503] = "Not available",
  [504] = "Gateway timeout",
}

local function html(text)
  return (string.gsub(text, "[&<>\"']", escapes))
end

local function wants_json()
  local accept = ngx.var.http_accept
  return accept and string.find(accept, "application/json", 1, true) ~= nil
end

local function as_json(code, message, app, request_id, retry_seconds)
  return cjson.encode {
    error = {
      code = code,
      message = message,
      why = "",
      evidence = { app = app ~= "" and app or nil, request_id = request_id },
      next = "look for this request_id in the router's log",
      retry_seconds = retry_seconds or cjson.null,
    },
  } .. "\n"
end

local function as_html(status, message, app, request_id)
  return table.concat {
    '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>', status, " ", titles[status] or "Error",
    "</title><style>body{font:16px/1.5 system-ui,sans-serif;margin:15vh auto;max-width:34em;padding:0 1em;color:#222}",
    "h1{font-size:1.4em}code{background:#eee;padding:.1em .3em}</style></head><body><h1>", status, " ",
    titles[status] or "Error", "</h1><p>", html(message), "</p><p>", app ~= "" and "App <code>" .. html(app) .. "</code>, request"
      or "Request", " <code>", html(request_id), "</code></p></body></html>\n",
  }
end

-- Answer with an error page; ends the request.
function M.answer(status, code, message, retry_seconds)
  local app, request_id = ngx.var.lain_app or "", ngx.var.lain_request_id or ""
  ngx.status = status
  ngx.header["Cache-Control"] = "no-store"
  ngx.header["Retry-After"] = retry_seconds
  local body
  if wants_json() then
    ngx.header["Content-Type"] = "application/json"
    body = as_json(code, message, app, request_id, retry_seconds)
  else
    ngx.header["Content-Type"] = "text/html; charset=utf-8"
    body = as_html(status, message, app, request_id)
  end
  ngx.header["Content-Length"] = #body
  if ngx.req.get_method() ~= "HEAD" then
    ngx.print(body)
  else
    ngx.send_headers()
  end
  return ngx.exit(ngx.HTTP_OK)
end

function M.redirect(location)
  local method = ngx.req.get_method()
  ngx.status = (method == "GET" or method == "HEAD") and 301 or 308
  ngx.header["Location"] = location
  ngx.header["Content-Length"] = 0
  ngx.send_headers()
  return ngx.exit(ngx.HTTP_OK)
end

function M.unavailable(app)
  return M.answer(503, "no_instances", "App " .. app .. " has no running instance that could answer.", 5)
end

return M
