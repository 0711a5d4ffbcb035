"""The images' healthcheck, run as the Engine runs it: what it says of a server that is well, unwell, somebody else's, or not there."""

from __future__ import annotations

import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

from tests.fixtures.certificates import Authority

CHECK = Path(__file__).parents[3] / "deploy" / "images" / "health.py"


class Answers(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        status = 200 if self.path == "/readyz" else 503
        self.send_response(status)
        self.end_headers()
        self.wfile.write(b"etcd has not answered yet" if status == 503 else b"ok")

    def log_message(self, *_: object) -> None:
        """Nothing on the test's own output."""


@contextmanager
def serving(folder: Path | None = None) -> Iterator[str]:
    server = HTTPServer(("127.0.0.1", 0), Answers)
    if folder is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(folder / "cert.pem", folder / "key.pem")
        server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"{'http' if folder is None else 'https'}://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def check(*arguments: str | Path) -> tuple[int, str]:
    done = subprocess.run([CHECK, *arguments], capture_output=True, text=True, timeout=20, check=False)
    assert not done.stderr
    return done.returncode, done.stdout.strip()


def test_a_server_that_is_well_and_one_that_is_not() -> None:
    with serving() as url:
        assert check(f"{url}/readyz") == (0, "200 ok")
        assert check(f"{url}/other") == (1, "503 etcd has not answered yet")


def test_over_tls_only_who_the_authority_vouches_for(tmp_path: Path) -> None:
    ours = Authority(tmp_path / "ours").issue("lain")
    strange = Authority(tmp_path / "strange").issue("stranger")
    with serving(ours) as url:
        assert check(f"{url}/readyz", ours) == (0, "200 ok")
    with serving(strange) as url:
        code, said = check(f"{url}/readyz", ours)
        assert code == 1 and "CERTIFICATE_VERIFY_FAILED" in said


def test_nobody_there_and_nothing_that_speaks_http(tmp_path: Path) -> None:
    with serving() as url:
        code, said = check(f"{url.replace('http', 'https')}/readyz", Authority(tmp_path).issue("lain"))
        assert code == 1 and said
    code, said = check(f"{url}/readyz")
    assert code == 1 and "Connection refused" in said
