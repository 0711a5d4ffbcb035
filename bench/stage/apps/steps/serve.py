"""An app whose life takes as long as it is told to: ``START_SECONDS`` until it listens, ``STOP_SECONDS`` from SIGTERM to its end,
``/wait/N`` answers after N seconds. Standard library only."""

import http.server
import os
import signal
import sys
import threading
import time


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        if self.path.startswith("/wait/"):
            time.sleep(float(self.path.removeprefix("/wait/")))
        body = f"{os.environ.get('LAIN_APP_RELEASE_VERSION', '?')}\n".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None: ...


def end(*_: object) -> None:
    threading.Timer(float(os.environ.get("STOP_SECONDS", "0")), lambda: os._exit(0)).start()


signal.signal(signal.SIGTERM, end)
if "once" in sys.argv:
    time.sleep(float(sys.argv[2]))
    sys.exit(0)
time.sleep(float(os.environ.get("START_SECONDS", "0")))
http.server.ThreadingHTTPServer(("0.0.0.0", int(os.environ.get("PORT", "8000"))), Handler).serve_forever()
