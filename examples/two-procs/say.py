"""Tells which proc answered, and for which path: the router strips `/api`."""

import os
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(f"{sys.argv[1]} {self.path}\n".encode())

    def log_message(self, format: str, *args: object) -> None:
        pass


HTTPServer(("0.0.0.0", int(os.environ["PORT"])), Handler).serve_forever()
