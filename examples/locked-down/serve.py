"""Tells as whom it runs and what it may write."""

import json
import os
import tempfile
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path


def may_write(folder: str) -> bool:
    try:
        (Path(folder) / "probe").write_text("")
    except OSError:
        return False
    return True


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        app, temporary = may_write("/lain/app"), may_write(tempfile.gettempdir())
        facts = {"uid": os.getuid(), "gid": os.getgid(), "app": app, "tmp": temporary}
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps(facts).encode())

    def log_message(self, format: str, *args: object) -> None:
        pass


HTTPServer(("0.0.0.0", 8080), Handler).serve_forever()
