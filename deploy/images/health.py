#!/usr/bin/env python3
"""The healthcheck of every image: one GET, exit 0 for a 2xx answer. The standard library only, so any image with Python can run it.

usage: lain-health URL [TLS_DIR]      TLS_DIR holds ca.pem, which the server's certificate must come from
"""

import ssl
import sys
import urllib.request

TIMEOUT_SECONDS = 4


def main(url: str, tls_dir: str | None = None) -> int:
    context = ssl.create_default_context(cafile=f"{tls_dir}/ca.pem") if tls_dir else None
    handlers: list[urllib.request.BaseHandler] = [urllib.request.ProxyHandler({})]
    if context is not None:
        handlers.append(urllib.request.HTTPSHandler(context=context))
    try:
        with urllib.request.build_opener(*handlers).open(url, timeout=TIMEOUT_SECONDS) as answer:
            print(answer.status, answer.read(400).decode(errors="replace"))
            return 0 if 200 <= answer.status < 300 else 1
    except OSError as error:  # URLError and HTTPError are OSErrors
        detail = error.read(400).decode(errors="replace") if hasattr(error, "read") else ""
        print(f"{url}: {error} {detail}".strip())
        return 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
