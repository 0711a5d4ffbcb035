"""The checks of ``lainctl doctor``. Each asks one thing, within seconds, and never raises: what it cannot ask is its finding."""

from __future__ import annotations

import email.utils
import shutil
import socket
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlsplit

from lain_cli.context import Run
from lain_cli.render import duration, size
from lain_shared.errors import LainError
from lain_shared.tls import client_context

TIMEOUT_SECONDS = 5.0
LEAST_FREE_BYTES = 2 * 1024**3
SOON_SECONDS = 30 * 86400
RENEW = "renew it: `lain local up`; on a Docker host `docker compose -p lain run --rm files`, then restart the parts that it names"
MOST_SKEW_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Check:
    """``state``: ``ok``, ``warning``, ``problem`` or ``skipped``."""

    name: str
    state: str
    found: str
    next: str = ""


def run_checks(run: Run, *, offline: bool) -> tuple[Check, ...]:
    """Every check, in the order in which one would look."""
    checks: list[Callable[[Run], Check]] = [check_docker, check_disk, check_git, check_configuration]
    found = [check(run) for check in checks]
    if offline:
        return tuple(found)
    if found[-1].state == "problem":
        return (*found, Check("cluster", "skipped", "no phase to ask"))
    for check in (
        check_console,
        check_token,
        check_deployd,
        check_nodes,
        check_registry,
        check_certificates,
        check_clock,
    ):
        found.append(check(run))
    return tuple(found)


def check_docker(run: Run) -> Check:
    try:
        version = run.docker.available()
    except LainError as error:
        return Check("docker", "problem", f"{error.message}: {error.why}" if error.why else error.message, error.next)
    major = int(version.split(".")[0]) if version.split(".")[0].isdigit() else 0
    if major and major < 20:
        return Check("docker", "warning", f"Engine {version}", "20.10 or newer is supported")
    return Check("docker", "ok", f"Engine {version}")


def check_disk(run: Run) -> Check:
    """Free space where Docker keeps its images, when that is on this machine; else of the home directory."""
    try:
        root = (run.docker.ask("info", "--format", "{{.DockerRootDir}}") or "").strip()
    except LainError:
        root = ""
    place = Path(root) if root and Path(root).exists() else Path.home()
    free = shutil.disk_usage(place).free
    if free < LEAST_FREE_BYTES:
        return Check("disk", "problem", f"{size(free)} free in {place}", "docker system df; docker image prune")
    return Check("disk", "ok", f"{size(free)} free in {place}")


def check_git(run: Run) -> Check:
    if shutil.which("git", path=run.environ.get("PATH")) is None:
        return Check("git", "problem", "git is not installed", "apt-get install git")
    return Check("git", "ok", "installed")


def check_configuration(run: Run) -> Check:
    try:
        phase = run.phase
    except LainError as error:
        return Check("configuration", "problem", error.message, error.next)
    file = run.config.phase_file
    if file.exists() and file.stat().st_mode & 0o077:
        return Check("configuration", "warning", f"{file} can be read by others", f"chmod 600 {file}")
    return Check("configuration", "ok", f"phase {phase.name}, domain {phase.domain}")


def check_console(run: Run) -> Check:
    try:
        started = time.monotonic()
        cluster = run.call(lambda console: console.cluster())
    except LainError as error:
        return Check("console", "problem", f"{error.message}: {error.why}" if error.why else error.message, error.next)
    switches = "; ".join(f"{name} is on: {why}" for name, why in cluster.switches.items())
    found = f"{run.phase.console} answered in {duration(time.monotonic() - started)}, version {cluster.console_version or '?'}"
    return Check("console", "warning" if switches else "ok", f"{found}; {switches}" if switches else found)


def check_token(run: Run) -> Check:
    try:
        who = run.call(lambda console: console.whoami())
    except LainError as error:
        return Check("token", "problem", error.message, error.next or f"lain login {run.hint}")
    left = (who.expires_at - time.time()) if who.expires_at else None
    found = f"{who.name}, {who.role}" + (f", {duration(left)} left" if left is not None else "")
    if left is not None and left < 7 * 86400:
        return Check("token", "warning", found, f"lainctl token create {who.name} --role {who.role}")
    return Check("token", "ok", found)


def check_deployd(run: Run) -> Check:
    if not run.phase.deployd:
        return Check("deployd", "skipped", "the phase has no deployd address (operators have one)")
    try:
        run.call_deployd(lambda deployd: deployd.switches())
    except LainError as error:
        return Check("deployd", "problem", f"{error.message}: {error.why}" if error.why else error.message, error.next)
    return Check("deployd", "ok", run.phase.deployd)


def check_nodes(run: Run) -> Check:
    if not run.phase.deployd:
        return Check("nodes", "skipped", "the phase has no deployd address")
    try:
        views = run.call_deployd(lambda deployd: deployd.nodes())
    except LainError as error:
        return Check("nodes", "problem", error.message, error.next)
    away = [view.node.name for view in views if view.alive is None]
    problems = [f"{view.node.name}: {problem}" for view in views if view.state for problem in view.state.problems]
    if away:
        return Check("nodes", "problem", f"away: {', '.join(away)}", f"lainctl node inspect {away[0]}")
    if problems:
        return Check("nodes", "warning", "; ".join(problems))
    return Check("nodes", "ok" if views else "problem", f"{len(views)} alive", "" if views else "no node has joined")


def check_registry(run: Run) -> Check:
    """Does the registry answer at all? Its password is used by docker only."""
    address = run.phase.registry
    if not address:
        return Check("registry", "skipped", "the phase has no registry address")
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host, int(port)), timeout=TIMEOUT_SECONDS):
            return Check("registry", "ok", f"{address} accepts connections")
    except (OSError, ValueError) as error:
        return Check("registry", "problem", f"{address}: {error}", "is the registry up? lain local status")


def check_certificates(run: Run) -> Check:
    """How long the certificates of console and deployd are good for."""
    ends: list[tuple[float, str]] = []
    for name in ("console", "deployd"):
        parts = urlsplit(getattr(run.phase, name))
        if parts.scheme != "https" or not parts.hostname:
            continue
        try:
            with run.ca_file() as ca:
                ends.append((certificate_end(parts.hostname, parts.port or 443, ca), name))
        except (ssl.SSLCertVerificationError, LainError) as error:
            return Check("certificates", "problem", f"{name}: {error}", "is the CA of this phase the cluster's?")
        except OSError as error:
            return Check("certificates", "skipped", f"{name} shows none: {error}")
    if not ends:
        return Check("certificates", "skipped", "no https address")
    end, name = min(ends)
    left = end - time.time()
    found = f"the first to expire is {name}'s, in {duration(left)}"
    if left >= SOON_SECONDS:
        return Check("certificates", "ok", found)
    return Check("certificates", "warning", found, RENEW)


def certificate_end(host: str, port: int, ca: Path | None) -> float:
    """When the certificate that ``host:port`` shows runs out, in seconds since the epoch; ``OSError`` when it is not trusted."""
    context = client_context(ca=ca)
    with (
        socket.create_connection((host, port), timeout=TIMEOUT_SECONDS) as plain,
        context.wrap_socket(plain, server_hostname=host) as secured,
    ):
        shown = secured.getpeercert() or {}
    end = str(shown.get("notAfter", ""))
    return datetime.strptime(end, "%b %d %H:%M:%S %Y %Z").replace(tzinfo=UTC).timestamp() if end else float("inf")


def check_clock(run: Run) -> Check:
    """This machine's clock beside the console's ``Date`` header."""
    parts = urlsplit(run.phase.console)
    try:
        with run.ca_file() as ca:
            there = server_time(parts.scheme, parts.hostname or "", parts.port, ca)
    except (OSError, LainError) as error:
        return Check("clock", "skipped", f"the console's clock cannot be read: {error}")
    if there is None:
        return Check("clock", "skipped", "the console does not tell its time")
    skew = abs(time.time() - there)
    if skew > MOST_SKEW_SECONDS:
        return Check("clock", "problem", f"{duration(skew)} apart from the console's", "synchronize both (chrony, ntp)")
    return Check("clock", "ok", f"within {max(skew, 1):.0f} s of the console's")


def server_time(scheme: str, host: str, port: int | None, ca: Path | None) -> float | None:
    """The server's time, to the second."""
    import http.client  # noqa: PLC0415 - only the doctor asks

    if scheme == "https":
        context = client_context(ca=ca)
        connection: http.client.HTTPConnection = http.client.HTTPSConnection(
            host, port, timeout=TIMEOUT_SECONDS, context=context
        )
    else:
        connection = http.client.HTTPConnection(host, port, timeout=TIMEOUT_SECONDS)
    try:
        connection.request("GET", "/healthz")
        stamp = connection.getresponse().getheader("Date")
    except http.client.HTTPException as error:
        raise OSError(str(error)) from error
    finally:
        connection.close()
    return email.utils.parsedate_to_datetime(stamp).timestamp() if stamp else None
