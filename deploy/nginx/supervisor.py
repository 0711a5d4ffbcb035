"""PID 1 of nginx's container: renders the fixed configuration from settings, and keeps exactly one nginx running.

Standard library only, so that it runs on whatever Python an image has. It writes nothing but ``LAIN_NGINX_RUN``, and removes two things
from the folder shared with the watcher: ``gate`` (when the container starts) and a dead master's ``control.sock``. It makes one file there:
``running``, locked for as long as any process of an nginx lives.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import ipaddress
import os
import pwd
import re
import resource
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from types import FrameType

HERE = Path(__file__).resolve().parent
PREFIX = "LAIN_NGINX_"
MODULE_FOLDERS = ("/usr/lib/nginx/modules", "/usr/share/nginx/modules", "/etc/nginx/modules")
LEVELS = ("debug", "info", "notice", "warn", "error", "crit", "alert", "emerg")
WANTED_FILES = 65536
CONNECTIONS_A_REQUEST = 2
"""The client's and the backend's."""
RESTART_SECONDS = 0.2
MAX_RESTART_SECONDS = 1.0
PR_SET_CHILD_SUBREAPER = 36
POOLS = tuple(f"{letter}_lain" for letter in "abcdefghijklmnopqrstuvwxyz")
"""Upstreams that differ in the connections they keep only. nginx looks for one by name from end to end: the first letter tells."""
COMMON_IDLE, POOL_IDLE = 1024, 128
"""Idle connections to backends a worker keeps: in the pool of all, where backends are few; in each of the others."""
IDLE_SECONDS = 4


class BadSetting(Exception):
    """A setting that cannot be used; the message names variable, value and what is allowed."""


@dataclass(frozen=True)
class Settings:
    """``LAIN_NGINX_<FIELD>``; the README of this folder says what each means."""

    shared: str = "/var/lib/lain/router"
    run: str = "/run/lain-nginx"
    listen: str = "0.0.0.0"
    http_port: int = 80
    https_port: int = 443
    external_http_port: int = 0
    external_https_port: int = 0
    workers: str = "auto"
    worker_connections: int = 10240
    proc_requests: int = 0
    trusted: str = ""
    hsts_seconds: int = 0
    access_log: str = "/dev/stdout"
    log_format: str = "json"
    error_level: str = "warn"
    wait_seconds: float = 30.0
    stop_seconds: float = 0.2
    grace_seconds: float = 10.0
    binary: str = "nginx"
    user: str = "nobody"


def read_settings(environ: Mapping[str, str]) -> Settings:
    """The settings in ``environ``. Every value that reaches the configuration is checked: it is text there."""
    values: dict[str, object] = {}
    known = {PREFIX + field.name.upper(): field for field in fields(Settings)}
    for name in sorted(environ):
        if not name.startswith(PREFIX):
            continue
        if name not in known:
            raise BadSetting(f"{name} is not a setting (known: {', '.join(sorted(known))})")
        field, text = known[name], environ[name]
        if text == "":
            continue
        kind = {"int": int, "float": float}.get(str(field.type), str)
        try:
            values[field.name] = kind(text)
        except ValueError:
            raise BadSetting(f"{name}={text!r} is not a number") from None
    settings = Settings(**values)  # type: ignore[arg-type]
    _check(settings)
    return settings


def _check(settings: Settings) -> None:
    def require(good: bool, name: str, allowed: str) -> None:
        if not good:
            raise BadSetting(f"{PREFIX}{name.upper()}={getattr(settings, name)!r} is not {allowed}")

    path = re.compile(r"/[A-Za-z0-9._/-]*\Z")
    for name in ("shared", "run", "access_log"):
        value = getattr(settings, name)
        require(
            bool(path.match(value)) or (name == "access_log" and value == "off"),
            name,
            "an absolute path of A-Za-z0-9._/-",
        )
    for name in ("http_port", "https_port", "external_http_port", "external_https_port"):
        require(0 <= getattr(settings, name) <= 65535, name, "a port (0: none)")
    for address in _list(settings.listen):
        require(_is_address(address), "listen", "a list of addresses, IPv6 in brackets")
    for block in _list(settings.trusted):
        require(_is_network(block), "trusted", "a list of CIDR blocks")
    require(settings.workers == "auto" or settings.workers.isdigit(), "workers", "auto or a number")
    require(settings.worker_connections >= 64, "worker_connections", "at least 64")
    require(settings.proc_requests >= 0, "proc_requests", "a number (0: half of what a worker can hold)")
    require(settings.log_format in ("json", "legacy"), "log_format", "json or legacy")
    require(settings.error_level in LEVELS, "error_level", "one of " + " ".join(LEVELS))
    require(bool(re.match(r"[a-z_][a-z0-9_-]*\Z", settings.user)), "user", "a user name")
    require(len(settings.shared) < 90, "shared", "short enough for a unix socket (90 characters)")


def _list(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _is_address(text: str) -> bool:
    bare = text[1:-1] if text.startswith("[") and text.endswith("]") else text
    try:
        return (ipaddress.ip_address(bare).version == 6) == (bare != text)
    except ValueError:
        return False


def _is_network(text: str) -> bool:
    try:
        ipaddress.ip_network(text)
    except ValueError:
        return False
    return True


# --- the configuration ------------------------------------------------------------------------------------------------


def render(settings: Settings, *, user: str, files: int, modules: str) -> str:
    """nginx's whole configuration. ``user``: the ``user`` directive or nothing. ``files``: open files a worker may have."""
    servers = "".join(
        _server(settings, http, https, external)
        for http, https, external in (
            (settings.http_port, settings.https_port, False),
            (settings.external_http_port, settings.external_https_port, True),
        )
        if http or https
    )
    return _fill(
        (HERE / "nginx.conf.template").read_text(),
        {
            "USER": user,
            "RUN": settings.run,
            "SHARED": settings.shared,
            "LUA": str(HERE / "lua"),
            "MODULES": modules,
            "WORKERS": settings.workers,
            "WORKER_CONNECTIONS": str(settings.worker_connections),
            "PROC_REQUESTS": str(settings.proc_requests or settings.worker_connections // CONNECTIONS_A_REQUEST // 2),
            "FILES": str(files),
            "ERROR_LEVEL": settings.error_level,
            "REAL_IP": "".join(f"  set_real_ip_from {block};\n" for block in _list(settings.trusted)),
            "TRUSTED": "".join(f"    {block} 1;\n" for block in _list(settings.trusted)),
            "ACCESS_LOG": _access_log(settings),
            "POOLS": ", ".join(f'"{pool}"' for pool in POOLS),
            "UPSTREAMS": _upstream("lain", COMMON_IDLE) + "".join(_upstream(pool, POOL_IDLE) for pool in POOLS),
            "HSTS": f"max-age={settings.hsts_seconds}" if settings.hsts_seconds > 0 else "",
            "SERVERS": servers,
        },
    )


def _access_log(settings: Settings) -> str:
    if settings.access_log == "off":
        return "  access_log off;"
    if settings.log_format == "legacy":
        return f"  access_log {settings.access_log} lain_legacy;"
    return (
        f"  access_log {settings.access_log} lain_json if=$lain_log_clean;\n"
        f"  access_log {settings.access_log} lain_json_odd if=$lain_log_odd;"
    )


def _upstream(name: str, idle: int) -> str:
    return (
        f"  upstream {name} {{\n"
        "    server 0.0.0.1; # never used: the balancer chooses\n"
        "    balancer_by_lua_block { lain.balance.balance() }\n"
        f"    keepalive {idle};\n"
        "    keepalive_requests 100000;\n"
        f"    keepalive_timeout {IDLE_SECONDS}s;\n"
        "  }\n"
    )


def _server(settings: Settings, http_port: int, https_port: int, external: bool) -> str:
    addresses = _list(settings.listen)
    listen = [f"    listen {address}:{http_port} default_server;" for address in addresses if http_port]
    tls = ""
    if https_port:
        listen += [f"    listen {address}:{https_port} ssl http2 default_server;" for address in addresses]
        tls = (
            "    ssl_certificate data:$lain_no_certificate;\n"
            "    ssl_certificate_key data:$lain_no_certificate;\n"
            "    ssl_certificate_by_lua_block { lain.tls.certify() }"
        )
    return _fill(
        (HERE / "server.conf.template").read_text(),
        {
            "LISTEN": "\n".join(listen),
            "TLS": tls,
            "EXTERNAL": "\n    set $lain_external 1;" if external else "",
            "IS_EXTERNAL": "true" if external else "",
            "LEGACY": " lain.legacy.line()" if settings.log_format == "legacy" else "",
        },
    )


def _fill(template: str, words: Mapping[str, str]) -> str:
    return re.sub(r"@([A-Z_]+)@", lambda found: words.get(found[1], found[0]), template)


def prepare(settings: Settings) -> Path:
    """Write the configuration and the folders it names; returns the file."""
    run = Path(settings.run)
    for folder in (run, *(run / name for name in ("body", "proxy", "fastcgi", "uwsgi", "scgi", "logs"))):
        folder.mkdir(parents=True, exist_ok=True)
    user = ""
    if os.geteuid() == 0:
        group = pwd.getpwnam(settings.user).pw_gid
        user = f"user {settings.user} {_group_name(group)};"
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    files = WANTED_FILES if hard == resource.RLIM_INFINITY else min(WANTED_FILES, max(soft, hard))
    modules = next((folder for folder in MODULE_FOLDERS if Path(folder, "ngx_http_lua_module.so").exists()), None)
    if modules is None:
        raise BadSetting("nginx's Lua module is not installed (Debian: libnginx-mod-http-lua)")
    file = run / "nginx.conf"
    file.write_text(render(settings, user=user, files=files, modules=modules))
    return file


def _group_name(gid: int) -> str:
    import grp  # noqa: PLC0415 - needed by root only

    return grp.getgrgid(gid).gr_name


# --- the process ------------------------------------------------------------------------------------------------------


def say(event: str, **more: object) -> None:
    import json  # noqa: PLC0415

    print(json.dumps({"service": "nginx-supervisor", "event": event, **more}), file=sys.stderr, flush=True)


class Supervisor:
    """Starts nginx when the gate opens, and again whenever its master ends, until it is told to stop."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._shared = Path(settings.shared)
        self._master: subprocess.Popen[bytes] | None = None
        self._stopping = False
        self._patience_seconds = 0.0

    def run(self) -> int:
        """Supervise until SIGTERM, SIGINT or SIGQUIT; returns the exit status."""
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT):
            signal.signal(number, self._stop)
        signal.signal(signal.SIGHUP, self._pass_on)
        signal.signal(signal.SIGUSR1, self._pass_on)
        with contextlib.suppress(
            OSError, AttributeError
        ):  # orphaned workers become our children, so that we can reap them
            ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        config = prepare(self._settings)
        self._await_gate()
        failures = 0
        while not self._stopping:
            began = time.monotonic()
            status = self._one_life(config)
            if self._stopping:
                break
            failures = failures + 1 if time.monotonic() - began < 5 else 0
            pause = 0.0 if failures == 0 else min(RESTART_SECONDS * failures, MAX_RESTART_SECONDS)
            say("nginx_ended", status=status, restart_seconds=pause)
            time.sleep(pause)
        signal.setitimer(
            signal.ITIMER_REAL, 0
        )  # an alarm while Python ends would find no handler any more, and kill it
        say("supervisor_stopped")
        return 0

    def _await_gate(self) -> None:
        """Wait until the watcher says that the table is good, or for ``wait_seconds`` if an old table is there."""
        gate, table = self._shared / "gate", self._shared / "table.jsonl"
        gate.unlink(missing_ok=True)
        patience_ends = time.monotonic() + self._settings.wait_seconds
        say("waiting_for_the_watcher", gate=str(gate), seconds=self._settings.wait_seconds)
        while not self._stopping:
            if gate.exists():
                return
            if table.exists() and time.monotonic() >= patience_ends:
                say("started_without_the_watcher", table_age_seconds=round(time.time() - table.stat().st_mtime))
                return
            time.sleep(0.02)

    def _await_turn(self) -> None:
        """Wait while another nginx serves from this folder: with its control socket taken away it would serve an old table for good."""
        if _answers(self._shared):
            say("waiting_for_another_nginx", socket=str(self._shared / "control.sock"))
        while not self._stopping and _answers(self._shared):
            time.sleep(0.02)

    def _one_life(self, config: Path) -> int:
        self._await_turn()
        lock = self._lock()
        if lock is None:
            return 0
        try:
            (self._shared / "control.sock").unlink(missing_ok=True)
            self._master = subprocess.Popen(
                [self._settings.binary, "-c", str(config), "-p", self._settings.run, "-e", "stderr"],
                start_new_session=True,
                pass_fds=(lock,),
            )
        finally:
            os.close(lock)
        if self._stopping:  # told so while it was being started: the handler saw no master
            self._quit()
        say("nginx_started", pid=self._master.pid)
        while True:
            try:
                status = self._master.wait()
                break
            except InterruptedError:
                continue
        self._kill_orphans(self._master.pid)
        return status

    def _lock(self) -> int | None:
        """An open file that tells the watcher that an nginx exists, before it reads the table; None when told to stop meanwhile.

        Master and workers inherit it and we close ours: the lock ends with the last of them. It is shared, for the watcher only looks.
        """
        flags = os.O_RDONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        file = os.open(self._shared / "running", flags, 0o644)
        while not self._stopping:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:  # the watcher looks at this moment
                time.sleep(0.002)
            else:
                return file
        os.close(file)
        return None

    def _kill_orphans(self, group: int) -> None:
        """Workers whose master died keep the ports: the next master could not bind them."""
        deadline = time.monotonic() + 5
        while time.monotonic() < deadline:
            try:
                os.killpg(group, signal.SIGKILL)
            except (ProcessLookupError, PermissionError):
                return
            with contextlib.suppress(ChildProcessError):
                while os.waitpid(-group, os.WNOHANG)[0]:
                    pass
            time.sleep(0.005)

    def _pass_on(self, number: int, _frame: FrameType | None) -> None:
        if self._master is not None and self._master.poll() is None:
            self._master.send_signal(number)

    def _stop(self, number: int, _frame: FrameType | None) -> None:
        """Nobody listens from here on. Who sends SIGQUIT has a successor that does; after SIGTERM one may wait for our end, so be quick."""
        if self._stopping and number == signal.SIGQUIT:
            return
        self._stopping = True
        self._patience_seconds = (
            self._settings.grace_seconds if number == signal.SIGQUIT else self._settings.stop_seconds
        )
        self._quit()

    def _quit(self) -> None:
        if self._master is None:
            return
        say("stopping", grace_seconds=self._patience_seconds)
        with contextlib.suppress(ProcessLookupError):
            self._master.send_signal(signal.SIGQUIT)
        signal.signal(signal.SIGALRM, self._lose_patience)
        signal.setitimer(signal.ITIMER_REAL, max(self._patience_seconds, 0.001))

    def _lose_patience(self, _number: int, _frame: FrameType | None) -> None:
        if self._master is not None:
            with contextlib.suppress(ProcessLookupError):
                self._master.send_signal(signal.SIGTERM)


def _answers(shared: Path) -> bool:
    """Some process listens on the control socket."""
    with socket.socket(socket.AF_UNIX) as door:
        door.settimeout(1)
        try:
            door.connect(str(shared / "control.sock"))
        except (TimeoutError, BlockingIOError):  # it is busy
            return True
        except OSError:
            return False
    return True


def check(settings: Settings) -> int:
    """Exit status 0 when nginx answers on its control socket."""
    with socket.socket(socket.AF_UNIX) as door:
        door.settimeout(3)
        try:
            door.connect(str(Path(settings.shared, "control.sock")))
            door.sendall(b"GET /state HTTP/1.0\r\nHost: control\r\n\r\n")
            return 0 if b" 200 " in door.recv(64) else 1
        except OSError:
            return 1


def main() -> int:
    try:
        settings = read_settings(os.environ)
        if "--check" in sys.argv[1:]:
            return check(settings)
        if shutil.which(settings.binary) is None:
            raise BadSetting(f"{settings.binary} is not installed")
        return Supervisor(settings).run()
    except BadSetting as fault:
        say("start_failed", error=str(fault))
        return 1


if __name__ == "__main__":
    sys.exit(main())
