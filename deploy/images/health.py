#!/usr/bin/env -S python3 -I -S
"""The healthcheck of every image: one GET, exit 0 for a 2xx answer. The standard library only, so that any image with Python can run it,
and no more of it than it takes: it starts once a minute in each container, and an HTTP library is most of what a start costs.

usage: lain-health URL [TLS_DIR]      TLS_DIR holds ca.pem, which the server's certificate must come from
"""

import socket
import ssl
import sys

TIMEOUT_SECONDS = 4
MAX_BYTES = 4096


def main(url: str, tls_dir: str = "") -> int:
    where, _, path = url.partition("://")[2].partition("/")
    host, _, port = where.rpartition(":")
    try:
        status, said = get(host, int(port), f"/{path}", tls_dir if url.startswith("https:") else "")
    except (OSError, ValueError) as error:
        print(f"{url}: {error}")
        return 1
    print(status, said)
    return 0 if 200 <= status < 300 else 1


def get(host: str, port: int, path: str, tls_dir: str) -> tuple[int, str]:
    """Status and the body's beginning (RFC 9112: an HTTP/1.0 answer ends with its connection)."""
    plain = socket.create_connection((host, port), timeout=TIMEOUT_SECONDS)
    with secured(plain, host, tls_dir) if tls_dir else plain as connection:
        connection.sendall(f"GET {path} HTTP/1.0\r\nHost: {host}:{port}\r\nConnection: close\r\n\r\n".encode())
        answer = b""
        while len(answer) < MAX_BYTES and (more := connection.recv(MAX_BYTES)):
            answer += more
    head, _, body = answer.partition(b"\r\n\r\n")
    version, _, rest = head.partition(b" ")
    if not version.startswith(b"HTTP/1.") or not rest[:3].isdigit():
        raise ValueError("the answer is not HTTP")
    return int(rest[:3]), body[:400].decode(errors="replace")


def secured(plain: socket.socket, host: str, tls_dir: str) -> ssl.SSLSocket:
    return ssl.create_default_context(cafile=f"{tls_dir}/ca.pem").wrap_socket(plain, server_hostname=host)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
