"""What routing by a table costs: requests/s, CPU and p99 of LAIN's nginx beside plain ``proxy_pass`` to the same backend.

The plain peer is the same nginx with the same headers, logging and keep-alive, a ``server`` block an app, and no Lua. Each router has one
worker on a core of its own; backend and client share another, so that the router is what is measured. Every app is asked in turn.
The floor is plain nginx once more, told as another contender: how far two equal routers seem apart is what this machine can tell. The
slowest hundredth differs several times over from one reading to the next, for plain nginx as well: the kernel makes client and backend wait
for each other. Hence both run with real-time priority where that is allowed, readings are short and many, in turns, and their medians
are compared. Needs ``nginx`` and ``wrk``.
"""

from __future__ import annotations

import functools
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bench.report import Proof
from lain_shared.model.route import Route
from lain_watcher.table import ProcEntry, Table, encode

if TYPE_CHECKING:
    from bench.__main__ import Options

DESCRIPTION = "requests/s and p99 through our nginx beside plain proxy_pass to the same backend"
SUPERVISOR = Path(__file__).resolve().parents[1] / "deploy" / "nginx" / "supervisor.py"
CONNECTIONS = 32
PLAIN, AGAIN, OURS = "plain", "plain again", "lain"
ROUNDS, SECONDS, WARM_SECONDS = 61, 1, 4
QUICK_ROUNDS, QUICK_SECONDS, QUICK_WARM_SECONDS = 3, 1, 2
ROUTER_CORE, LOAD_CORE = 0, 1

BACKEND = """
daemon off; pid {run}/backend.pid; worker_processes 1; error_log stderr error; {user}
events {{ worker_connections 8192; }}
http {{ access_log off; client_body_temp_path {run}/b1; proxy_temp_path {run}/b2; fastcgi_temp_path {run}/b3; uwsgi_temp_path {run}/b4;
  scgi_temp_path {run}/b5; keepalive_requests 100000000; keepalive_timeout 600s;
  server {{ listen 0.0.0.0:{port}; return 200 "hello from a small app\\n"; }} }}
"""

REQUESTS = """
local requests, at = {{}}, 0
function init()
  for app = 0, {apps} - 1 do
    requests[app] = wrk.format("GET", "/", {{ Host = "app-" .. app .. ".example" }})
  end
end
function request()
  at = (at + 1) % {apps}
  return requests[at]
end
function done(summary, latency)
  io.write(string.format("p99 of %d: %d us\\n", summary.requests, latency:percentile(99)))
end
"""


@dataclass(frozen=True, slots=True)
class Setting:
    """``apps`` apps; each with a backend address of its own, or all with the same."""

    name: str
    apps: int
    own_backends: bool = False

    def backend(self, app: int, port: int) -> str:
        return f"127.1.{app // 250}.{app % 250 + 1}:{port}" if self.own_backends else f"127.0.0.1:{port}"


@dataclass(frozen=True, slots=True)
class Router:
    """One nginx under test: where it listens, and its only worker."""

    name: str
    port: int
    worker: int


@dataclass(frozen=True, slots=True)
class Reading:
    """``rate`` in requests/s, ``cpu_us`` of the worker's own per request, ``p99_ms`` as clients saw it."""

    rate: float
    cpu_us: float
    p99_ms: float


SETTINGS = (
    Setting("10 apps", 10),
    Setting("1,000 apps", 1000),
    Setting("1,000 apps, each with a backend of its own", 1000, own_backends=True),
)


def run(proof: Proof, options: Options) -> None:
    rounds = options.rounds or (QUICK_ROUNDS if options.quick else ROUNDS)
    seconds = QUICK_SECONDS if options.quick else SECONDS
    warm_seconds = QUICK_WARM_SECONDS if options.quick else WARM_SECONDS
    proof.facts.update(
        rounds=rounds, seconds=seconds, connections=CONNECTIONS, pinned=_pinned(), real_time=bool(_at_once())
    )
    for setting in SETTINGS:
        with routers(setting) as (sides, script):
            for side in sides:
                measure(side, script, warm_seconds)
            found: dict[str, list[Reading]] = {side.name: [] for side in sides}
            for number in range(rounds):
                for turn in range(len(sides)):
                    side = sides[(number + turn) % len(sides)]  # nobody is always the first
                    found[side.name].append(measure(side, script, seconds))
        report(proof, setting, found)


def report(proof: Proof, setting: Setting, found: dict[str, list[Reading]]) -> None:
    rate, cpu, late = (
        proof.case(f"{setting.name}: {what}", unit)
        for what, unit in (("requests", "1/s"), ("CPU per request", "us"), ("p99", "ms"))
    )
    for name, readings in found.items():
        rate.add(name, *(one.rate for one in readings))
        cpu.add(name, *(one.cpu_us for one in readings))
        late.add(name, *(one.p99_ms for one in readings))
    rate.target("requests/s of plain's", rate.ratio(PLAIN), at_least=0.85)
    cpu.target("requests per CPU second of plain's", 1 / cpu.ratio(PLAIN), at_least=0.85)
    late.target("p99 by plain's", late.ratio(PLAIN), at_most=1.2)
    again_rate, again_late = rate.median(AGAIN) / rate.median(PLAIN), late.median(AGAIN) / late.median(PLAIN)
    proof.say(
        f"{setting.name}: {rate.ratio(PLAIN):.3f} of the rate, {late.ratio(PLAIN):.2f} of the p99 "
        f"(plain again: {again_rate:.3f}, {again_late:.2f})"
    )


def measure(router: Router, script: Path, seconds: int) -> Reading:
    before = _worked_seconds(router.worker)
    url = f"http://127.0.0.1:{router.port}/"
    argv = [*_at_once(), "wrk", "-t1", f"-c{CONNECTIONS}", f"-d{seconds}s", "-s", str(script), url]
    said = subprocess.run([*_on(LOAD_CORE), *argv], capture_output=True, text=True, check=True).stdout
    if "Non-2xx" in said or "Socket errors" in said:
        raise RuntimeError(f"{router.name} failed requests:\n{said}")
    count, p99_us = (int(one) for one in _found(r"p99 of (\d+): (\d+) us", said))
    return Reading(
        rate=float(*_found(r"Requests/sec:\s+([\d.]+)", said)),
        cpu_us=(_worked_seconds(router.worker) - before) / count * 1e6,
        p99_ms=p99_us / 1000,
    )


@contextmanager
def routers(setting: Setting) -> Iterator[tuple[Sequence[Router], Path]]:
    """Plain, plain again and LAIN's, with their backend; and the client's script."""
    backend, lain = _free_port(), _free_port()
    with ExitStack() as stack:
        root = Path(tempfile.mkdtemp(prefix="lain-bench-"))
        stack.callback(shutil.rmtree, root, ignore_errors=True)
        root.chmod(0o711)
        shared, folder = root / "shared", root / "run"
        shared.mkdir(mode=0o700)
        folder.mkdir()
        script = root / "requests.lua"
        script.write_text(REQUESTS.format(apps=setting.apps))
        (shared / "table.jsonl").write_bytes(encode(table(setting, backend)).text)
        user = "user nobody nogroup;" if os.geteuid() == 0 else ""
        (folder / "backend.conf").write_text(BACKEND.format(run=folder, port=backend, user=user))
        stack.enter_context(_process([*_at_once(), *_nginx(folder, "backend.conf")], LOAD_CORE))
        environ = {
            "LAIN_NGINX_SHARED": str(shared),
            "LAIN_NGINX_RUN": str(folder),
            "LAIN_NGINX_LISTEN": "127.0.0.1",
            "LAIN_NGINX_HTTP_PORT": str(lain),
            "LAIN_NGINX_HTTPS_PORT": "0",
            "LAIN_NGINX_WORKERS": "1",
            "LAIN_NGINX_WAIT_SECONDS": "0",
            "LAIN_NGINX_ACCESS_LOG": str(root / "access.log"),
        }
        supervisor = stack.enter_context(_process([sys.executable, str(SUPERVISOR)], ROUTER_CORE, environ))
        _wait_open(backend)
        _wait_open(lain)
        sides = [Router(OURS, lain, _child(_child(supervisor.pid)))]
        config = (folder / "nginx.conf").read_text()
        for name in (PLAIN, AGAIN):
            port, file = _free_port(), f"{name.replace(' ', '-')}.conf"
            (folder / file).write_text(plain_config(config, setting, port, backend))
            peer = stack.enter_context(_process(_nginx(folder, file), ROUTER_CORE))
            _wait_open(port)
            sides.append(Router(name, port, _child(peer.pid)))
        yield sides, script


def table(setting: Setting, backend: int) -> Table:
    procs = [
        ProcEntry(f"app-{app}", "web", (Route(f"app-{app}.example"),), ready=(setting.backend(app, backend),))
        for app in range(setting.apps)
    ]
    return Table(1, {entry.key: entry for entry in procs})


def plain_config(lain: str, setting: Setting, port: int, backend: int) -> str:
    """LAIN's own configuration without its Lua, upstreams and servers, and a server an app in their place."""
    head, _, rest = lain.partition("  # Idle connections to backends.")
    common = rest[rest.index("  proxy_http_version") : rest.index("  server {\n    listen")]
    head = re.sub(r"^\s*(lua_|load_module).*;$", "", head, flags=re.MULTILINE)
    head = re.sub(r"^  init_by_lua_block \{.*?^  \}$", "", head, flags=re.MULTILINE | re.DOTALL)
    head = re.sub(r"^\s*init_worker_by_lua_block .*$", "", head, flags=re.MULTILINE)
    idle = "keepalive_requests 100000; keepalive_timeout 60s;"
    addresses = sorted({setting.backend(app, backend) for app in range(setting.apps)})
    keep = 1024 if len(addresses) == 1 else CONNECTIONS
    named = {address: f"u{number}" for number, address in enumerate(addresses)}
    upstreams = [f"upstream {name} {{ server {address}; keepalive {keep}; {idle} }}" for address, name in named.items()]
    unset = "".join(f'set $lain_{name} ""; ' for name in ("named_proc", "cookie", "hsts", "legacy"))
    servers = [
        f"server {{ listen 127.0.0.1:{port}; server_name app-{app}.example; set $lain_app app-{app}; "
        f"location / {{ proxy_pass http://{named[setting.backend(app, backend)]}; }} location @never {{ {unset} }} }}"
        for app in range(setting.apps)
    ]
    sizes = "server_names_hash_max_size 16384; server_names_hash_bucket_size 128;"
    return "\n".join([head.replace("/nginx.pid", f"/{port}.pid"), sizes, *upstreams, common, *servers, "}\n"])


def _nginx(folder: Path, config: str) -> list[str]:
    return ["nginx", "-c", str(folder / config), "-p", str(folder), "-e", "stderr"]


def _pinned() -> bool:
    return len(os.sched_getaffinity(0)) > 1


def _on(core: int) -> list[str]:
    """What pins a command to a core, where there is more than one."""
    return ["taskset", "-c", str(sorted(os.sched_getaffinity(0))[core])] if _pinned() else []


@functools.cache
def _at_once() -> tuple[str, ...]:
    """What gives a command real-time priority, where that is allowed."""
    argv = ("chrt", "--fifo", "1")
    allowed = subprocess.run([*argv, "true"], capture_output=True, check=False).returncode == 0
    return argv if allowed else ()


@contextmanager
def _process(argv: list[str], core: int, more: dict[str, str] | None = None) -> Iterator[subprocess.Popen[bytes]]:
    running = subprocess.Popen([*_on(core), *argv], env={**os.environ, **(more or {})}, stderr=subprocess.DEVNULL)
    try:
        yield running
    finally:
        running.send_signal(signal.SIGTERM)
        running.wait(timeout=20)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_open(port: int) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.02)
    raise RuntimeError(f"nothing listens on {port}")


def _child(pid: int) -> int:
    return int(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0])


def _worked_seconds(pid: int) -> float:
    """CPU time of a process so far, to the nanosecond."""
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e9


def _found(pattern: str, text: str) -> tuple[str, ...]:
    found = re.search(pattern, text)
    if found is None:
        raise RuntimeError(f"wrk said nothing like {pattern!r}:\n{text}")
    return found.groups()
