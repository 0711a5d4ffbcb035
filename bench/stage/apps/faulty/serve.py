"""A server that goes wrong as ``FAULT`` says; with ``none``, it answers. Standard library only."""

import os
import signal
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

FAULT = os.environ["FAULT"]
PORT = 9999 if FAULT == "port" else 8000


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        if self.path == "/healthz" and FAULT == "never-ready":
            time.sleep(600)
        self.send_response(500 if self.path == "/healthz" and FAULT == "probe-500" else 200)
        body = b"no connection to the database\n" if FAULT == "probe-500" else b"well\n"
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None: ...


def end(text: str, code: int) -> None:
    print(text, flush=True)
    os._exit(code)


if FAULT == "exit":
    end("cannot open config.toml: no such file", 3)
if FAULT == "memory":
    kept = []
    while True:
        kept.append(b"x" * 4_000_000)
if FAULT == "exit-late":
    threading.Timer(20.0, end, ("the licence has expired", 4)).start()
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
print(f"listening on {PORT}", flush=True)
ThreadingHTTPServer(("0.0.0.0", PORT), Handler).serve_forever()
