-- Certificates by server name, swapped with the table: no reload, and no connection that stands is touched.
local ssl = require "ngx.ssl"
local tables = require "lain.tables"

local M = {}

local function parsed(certificate)
  if not certificate.chain then
    local chain, why = ssl.parse_pem_cert(certificate.cert)
    local key, key_why = ssl.parse_pem_priv_key(certificate.key)
    if not chain or not key then
      return nil, why or key_why
    end
    certificate.chain, certificate.private_key = chain, key
  end
  return certificate
end

function M.certify()
  local name = ssl.server_name()
  local live = tables.current()
  name = name and string.lower(name)
  local certificate = live and name and tables.has_host(live, name) and tables.certificate(live, name)
  if not certificate then
    return ngx.exit(ngx.ERROR) -- an unknown name gets no handshake: no certificate leaks
  end
  local ready, why = parsed(certificate)
  if not ready then
    ngx.log(ngx.ERR, "the certificate for ", name, " is unusable: ", why)
    return ngx.exit(ngx.ERROR)
  end
  ssl.clear_certs()
  if not ssl.set_cert(ready.chain) or not ssl.set_priv_key(ready.private_key) then
    ngx.log(ngx.ERR, "the certificate for ", name, " was refused by OpenSSL")
    return ngx.exit(ngx.ERROR)
  end
end

return M
