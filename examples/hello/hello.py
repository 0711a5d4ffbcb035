"""Says hello, and who it is. Nothing but the standard library."""

import os
import signal
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

GREETING = os.environ.get("GREETING", "Hello from LAIN")


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        instance = f"{os.environ.get('LAIN_PROCNAME', 'web')}-{os.environ.get('LAIN_INSTANCE_NO', '?')}"
        release = os.environ.get("LAIN_APP_RELEASE_VERSION", "?")
        text = (
            "ok\n"
            if self.path == "/healthz"
            else f"{GREETING}! This is {instance}, version {release}, path {self.path}\n"
        )
        body = text.encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/plain; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        if self.path != "/healthz":
            print(format % args, flush=True)


def main() -> None:
    server = ThreadingHTTPServer(("0.0.0.0", int(os.environ.get("PORT", "8000"))), Handler)
    signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=server.shutdown).start())
    print("listening", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
