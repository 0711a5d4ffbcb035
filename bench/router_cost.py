"""What routing by a table costs: requests per second of LAIN's nginx beside the same nginx with a plain ``proxy_pass``, alternating.

Both have one worker, the same headers, logging and keep-alive; LAIN's knows ``--hosts`` hosts. Needs ``nginx`` and ``wrk``.
    python bench/router_cost.py [--seconds 5] [--rounds 5] [--hosts 1000] [--json]
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lain_shared.model.route import Route
from lain_watcher.table import ProcEntry, Table, encode

HERE = Path(__file__).resolve().parents[1]
SUPERVISOR = HERE / "deploy" / "nginx" / "supervisor.py"

BACKEND = """
daemon off; pid {run}/backend.pid; worker_processes 1; error_log stderr error; {user}
events {{ worker_connections 4096; }}
http {{ access_log off; client_body_temp_path {run}/b1; proxy_temp_path {run}/b2; fastcgi_temp_path {run}/b3; uwsgi_temp_path {run}/b4;
  scgi_temp_path {run}/b5; keepalive_requests 100000000; server {{ listen 127.0.0.1:{port}; return 200 "hello from a small app\\n"; }} }}
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_open(port: int) -> None:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.02)
    raise SystemExit(f"nothing listens on {port}")


@contextmanager
def process(argv: list[str], env: dict[str, str] | None = None) -> Iterator[subprocess.Popen[bytes]]:
    running = subprocess.Popen(argv, env=env, stderr=subprocess.DEVNULL)
    try:
        yield running
    finally:
        running.terminate()
        running.wait(timeout=20)


def plain_config(lain: str, port: int, backend: int, lain_port: int) -> str:
    """LAIN's own configuration with everything that is Lua taken out: what is left is the fair peer."""
    text = re.sub(r"^\s*(lua_|load_module).*?;$", "", lain, flags=re.MULTILINE)
    text = re.sub(r"^  init_by_lua_block \{.*?^  \}$", "", text, flags=re.MULTILINE | re.DOTALL)
    text = re.sub(r"set_by_lua_block \$lain_app \{.*\}", "", text)
    text = re.sub(r"^\s*\w+_by_lua_block .*$", "", text, flags=re.MULTILINE)
    text = re.sub(r"if \(\$lain_app.*?\}", "", text, flags=re.DOTALL)
    text = text.replace("server 0.0.0.1; # never used: the balancer chooses", f"server 127.0.0.1:{backend};")
    text = re.sub(r"location @(careful|stream|lain_failure) \{.*?\n    \}", "", text, flags=re.DOTALL)
    text = re.sub(r"error_page .*;|recursive_error_pages on;", "", text)
    text = text.replace('set $lain_uri "";', 'set $lain_uri ""; set $lain_app "";')
    text = re.sub(r"  # The watcher's door.*", "}\n", text, flags=re.DOTALL)
    return text.replace(f":{lain_port} default", f":{port} default").replace("/nginx.pid", "/plain.pid")


def cpu_seconds(master: int) -> float:
    """User and system time of a master's workers so far."""
    children = Path(f"/proc/{master}/task/{master}/children").read_text().split()
    stats = [Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split() for pid in children]
    return sum(int(fields[11]) + int(fields[12]) for fields in stats) / os.sysconf("SC_CLK_TCK")


def measure(port: int, master: int, seconds: int, connections: int) -> tuple[float, float]:
    """Requests per second, and microseconds of the worker's own CPU per request (which a busy machine does not blur)."""
    before = cpu_seconds(master)
    argv = [
        "wrk",
        "-t1",
        f"-c{connections}",
        f"-d{seconds}s",
        "-H",
        "Host: app-500.example",
        f"http://127.0.0.1:{port}/",
    ]
    said = subprocess.run(argv, capture_output=True, text=True, check=True).stdout
    if "Non-2xx" in said or "Socket errors" in said:
        raise SystemExit(said)
    rate, count = re.search(r"Requests/sec:\s+([\d.]+)", said), re.search(r"(\d+) requests in", said)
    assert rate is not None, said
    assert count is not None, said
    return float(rate[1]), (cpu_seconds(master) - before) / int(count[1]) * 1e6


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--hosts", type=int, default=1000)
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    root = Path(tempfile.mkdtemp(prefix="lain-bench-"))
    root.chmod(0o711)
    try:
        result = compare(root, asked)
    finally:
        shutil.rmtree(root, ignore_errors=True)
    if asked.json:
        print(json.dumps(result))
    else:
        for name in ("plain", "lain"):
            rates, cpu = zip(*result[name], strict=True)
            print(
                f"{name:6} {statistics.median(rates):9.0f} requests/s  {statistics.median(cpu):6.1f} us CPU/request, at best {min(cpu):.1f}"
            )
        print(
            f"ratio  {result['rate_ratio']:9.3f} of the rate   {result['cpu_ratio']:6.3f} of the requests per CPU second"
        )
    return 0


def compare(root: Path, asked: argparse.Namespace) -> dict[str, Any]:
    backend, lain, plain = free_port(), free_port(), free_port()
    shared, run = root / "shared", root / "run"
    shared.mkdir()
    run.mkdir()
    procs = [
        ProcEntry(
            f"app-{number}", "web", (Route(f"app-{number}.example"),), ready=(f"127.0.0.1:{backend}",), created=number
        )
        for number in range(asked.hosts)
    ]
    (shared / "table.jsonl").write_bytes(encode(Table(1, {entry.key: entry for entry in procs})).text)
    env = {
        **os.environ,
        "LAIN_NGINX_SHARED": str(shared),
        "LAIN_NGINX_RUN": str(run),
        "LAIN_NGINX_LISTEN": "127.0.0.1",
        "LAIN_NGINX_HTTP_PORT": str(lain),
        "LAIN_NGINX_HTTPS_PORT": "0",
        "LAIN_NGINX_WORKERS": "1",
        "LAIN_NGINX_WAIT_SECONDS": "0",
        "LAIN_NGINX_ACCESS_LOG": str(root / "access.log"),
    }
    user = "user nobody nogroup;" if os.geteuid() == 0 else ""
    (run / "backend.conf").write_text(BACKEND.format(run=run, port=backend, user=user))
    with (
        process(["nginx", "-c", str(run / "backend.conf"), "-p", str(run), "-e", "stderr"]),
        process([sys.executable, str(SUPERVISOR)], env) as supervisor,
    ):
        wait_open(backend)
        wait_open(lain)
        (run / "plain.conf").write_text(plain_config((run / "nginx.conf").read_text(), plain, backend, lain))
        with process(["nginx", "-c", str(run / "plain.conf"), "-p", str(run), "-e", "stderr"]) as peer:
            wait_open(plain)
            children = Path(f"/proc/{supervisor.pid}/task/{supervisor.pid}/children").read_text().split()
            sides = (("plain", plain, peer.pid), ("lain", lain, int(children[0])))
            found: dict[str, list[tuple[float, float]]] = {"plain": [], "lain": []}
            for _ in range(asked.rounds):
                for name, port, master in sides:
                    found[name].append(measure(port, master, asked.seconds, asked.connections))
    pairs = list(zip(found["lain"], found["plain"], strict=True))
    return {
        **found,
        "rate_ratio": statistics.median(ours[0] / theirs[0] for ours, theirs in pairs),
        "cpu_ratio": statistics.median(theirs[1] / ours[1] for ours, theirs in pairs),
    }


if __name__ == "__main__":
    sys.exit(main())
