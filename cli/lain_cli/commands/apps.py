"""Looking at apps: registration, state, versions, explanation, address."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from lain_cli.context import Run
from lain_cli.images import short_version
from lain_cli.options import app_argument, command
from lain_cli.render import Cell, Column, Screen, ago, columns, count, duration, size, when
from lain_shared.errors import Conflict, LainError, NotFound

if TYPE_CHECKING:
    from lain_sdk.api_types import AppView, ExplainView, ProcView, RouteView
    from lain_shared.model.status import InstanceStatus

GOOD = {"stable", "done", "succeeded", "deployed", "running", "ok"}
BAD = {"failed", "failing", "backoff", "error"}


def styled(word: str) -> Cell:
    """A state, coloured by whether it is good news."""
    style = "good" if word in GOOD else "bad" if word in BAD else "warn"
    return Cell(word, style)


@command("reposit", examples=("lain reposit", "lain register -p prod --giturl https://git.example.org/hello"))
@app_argument
@click.option("--giturl", metavar="URL", help="Bind the app to this repository (default: the manifest's giturl).")
def reposit(run: Run, app: str | None, giturl: str | None) -> None:
    """Register the app's name in the cluster; already registered is fine."""
    name = run.app(app)
    url = giturl if giturl is not None else (run.manifest.giturl if not app else "")
    created = register(run, name, url)
    word = "registered" if created else "is already registered"
    run.show(
        {"app": name, "created": created}, lambda screen: screen.line(f"{name} {word} in {run.phase.name}", "good")
    )


def register(run: Run, name: str, giturl: str) -> bool:
    """Register; False when it was already."""

    async def body() -> bool:
        async with run.console() as console:
            try:
                await console.repo(name)
                return False
            except NotFound:
                try:
                    await console.register(name, giturl)
                except Conflict as error:
                    if error.error_code not in ("app_exists", "already_registered"):
                        raise
                    return False
                return True

    import asyncio  # noqa: PLC0415

    return asyncio.run(body())


# --- ps ---------------------------------------------------------------------------------------------------------------


@command("ps", examples=("lain ps", "lain ps --app hello -o json"))
@app_argument
def ps(run: Run, app: str | None) -> None:
    """The app: state, addresses, procs, instances with node and address."""
    name = run.app(app)
    view = run.call(lambda console: console.app(name))
    run.show(view, lambda screen: draw_app(screen, view, run.phase.domain))


def draw_app(screen: Screen, view: AppView, domain: str) -> None:
    """A whole app for a person. ``domain``: the phase's."""
    state = Cell(*health(view))
    release = f"{view.release} ({short_version(view.meta_version)})" if view.release else "-"
    deployed = f"{when(view.deployed_at)} by {view.deployed_by}" if view.deployed_at else ""
    pairs: list[tuple[str, str | Cell]] = [("app", view.name), ("state", state), ("release", release)]
    pairs += [("deployed", deployed), ("owner", view.owner), ("git", view.giturl)]
    routes = by_reach(view.routes, domain)
    pairs += [("" if number else "url", route.url or route.host + route.path) for number, route in enumerate(routes)]
    if (running := view.operation) is not None:
        pairs.append(
            (
                "operation",
                Cell(f"{running.kind} {running.phase} by {running.who} for {duration(running.age_seconds)}", "warn"),
            )
        )
    if view.failure is not None:
        pairs.append(("last failure", Cell(view.failure.message, "bad")))
    screen.fields(pairs)
    if view.procs:
        screen.line()
        draw_procs(screen, view.procs)
    pods = [(proc, pod) for proc in view.procs for pod in proc.pods]
    if pods:
        screen.line()
        draw_pods(screen, pods)
    if view.failure is not None or state.style == "bad":
        screen.line()
        screen.line(f"next: lain explain --app {view.name}", "bold")


def health(view: AppView) -> tuple[str, str]:
    """State of an app in a word or two, and its style."""
    if view.state != "deployed":
        return str(view.state), "bad" if view.state == "failed" else "dim"
    return ("healthy", "good") if view.healthy else ("unhealthy", "bad")


def draw_procs(screen: Screen, procs: tuple[ProcView, ...]) -> None:
    rows: list[list[str | Cell]] = []
    for proc in procs:
        limits = size(proc.memory_bytes) + (f", cpu {proc.cpu}" if proc.cpu else "")
        ready = Cell(f"{proc.ready}/{proc.instances - len(proc.stopped)}")
        rows.append(
            [proc.name, str(proc.type), styled(str(proc.phase)), ready, limits, override_note(proc) or proc.message]
        )
    head = columns("PROC", "TYPE", "STATE", Column("READY", right=True), "LIMITS", Column("NOTE", least=16))
    screen.table(head, rows)


def override_note(proc: ProcView) -> str:
    """``manifest vs live``: where ``lain scale`` set something else than the manifest says; and what stands in the way."""
    notes: list[str] = []
    if proc.overrides.instances is not None and proc.manifest_instances is not None:
        notes.append(f"scaled to {proc.overrides.instances} (manifest: {proc.manifest_instances})")
    if proc.overrides.memory_bytes is not None and proc.manifest_memory_bytes is not None:
        notes.append(f"memory {size(proc.overrides.memory_bytes)} (manifest: {size(proc.manifest_memory_bytes)})")
    if proc.overrides.cpu is not None and proc.manifest_cpu is not None:
        notes.append(f"cpu {proc.overrides.cpu} (manifest: {proc.manifest_cpu})")
    if proc.stopped:
        notes.append("stopped: " + ", ".join(map(str, proc.stopped)))
    if proc.message:
        notes.append(proc.message)
    if proc.reasons:
        notes.append("; ".join(f"{reason}: {count(nodes, 'node')}" for reason, nodes in proc.reasons.items()))
    return "; ".join(notes)


def draw_pods(screen: Screen, pods: list[tuple[ProcView, InstanceStatus]]) -> None:
    rows: list[list[str | Cell]] = []
    for proc, pod in sorted(pods, key=lambda item: (item[0].name, item[1].instance, item[1].generation)):
        state = "ready" if pod.ready else str(pod.state)
        if pod.draining:
            state = "draining"
        style = "good" if pod.ready and not pod.draining else "bad" if str(pod.state) in BAD else "warn"
        address = f"{pod.address}:{proc.port}" if pod.address and proc.port else pod.address
        restarts = str(pod.restarts) if pod.restarts else ""
        rows.append([
            f"{proc.name}-{pod.instance}", Cell(state, style), str(pod.release), pod.node, address,
            ago(pod.started_at), restarts, pod.error or pod.progress,
        ])  # fmt: skip
    head = columns(
        "INSTANCE", "STATE", Column("REL", right=True), "NODE", Column("ADDRESS", least=12), Column("AGE", right=True),
        Column("RESTARTS", right=True), Column("NOTE", least=12),
    )  # fmt: skip
    screen.table(*without_empty(head, rows))


def without_empty(
    head: tuple[Column, ...], rows: list[list[str | Cell]]
) -> tuple[tuple[Column, ...], list[list[str | Cell]]]:
    """The table without columns that say nothing in any row."""
    used = [
        i for i in range(len(head)) if any((c.text if isinstance(c, Cell) else c) for c in (row[i] for row in rows))
    ]
    return tuple(head[i] for i in used), [[row[i] for i in used] for row in rows]


# --- the cluster's apps -----------------------------------------------------------------------------------------------

_SORTS = {"name": "name", "appname": "name", "state": "state", "version": "version", "metaversion": "version"}


@command("dashboard", examples=("lain dashboard", "lain dashboard --sort state -o json"))
@click.option("-s", "--sort", type=click.Choice(sorted(_SORTS)), default="name", help="Column to sort by.")
def dashboard(run: Run, sort: str) -> None:
    """Every app of the cluster that you may see."""
    views = list(run.call(lambda console: console.apps()))
    keys = {
        "name": lambda v: v.name,
        "state": lambda v: (health(v)[0], v.name),
        "version": lambda v: (v.meta_version, v.name),
    }
    views.sort(key=keys[_SORTS[sort]])

    def pretty(screen: Screen) -> None:
        if not views:
            screen.line("no app yet; in an app's directory: lain ship --register")
            return
        rows: list[list[str | Cell]] = []
        for view in views:
            ready = sum(proc.ready for proc in view.procs)
            wanted = sum(proc.instances - len(proc.stopped) for proc in view.procs)
            url = next((route.url or route.host for route in by_reach(view.routes, run.phase.domain)), "")
            busy = str(view.operation.kind) if view.operation else ""
            rows.append([
                view.name, Cell(*health(view)), str(view.release or "-"), short_version(view.meta_version) or "-",
                f"{ready}/{wanted}" if view.procs else "-", busy, url,
            ])  # fmt: skip
        head = columns("APP", "STATE", Column("REL", right=True), "VERSION", Column("READY", right=True), "BUSY", "URL")
        screen.table(*without_empty(head, rows))

    run.show(views, pretty)


@command("versions", examples=("lain versions", "lain versions --app hello -o json"))
@app_argument
def versions(run: Run, app: str | None) -> None:
    """Versions in the cluster's registry, newest first. Alias: appversion."""
    name = run.app(app)
    view = run.call(lambda console: console.versions(name))

    def pretty(screen: Screen) -> None:
        if not view.versions:
            screen.line(f"the registry has no version of {name}; next: lain build, lain push {run.hint}")
            return
        rows: list[list[str | Cell]] = [
            [
                Cell(one.meta_version, "bold" if one.current else ""),
                when(one.committed_at),
                Cell("current", "good")
                if one.current
                else Cell("")
                if one.deployable
                else Cell(f"no {one.missing}", "warn"),
            ]
            for one in view.versions
        ]
        screen.table(columns(Column("VERSION", least=20), "COMMITTED", "NOTE"), rows)

    run.show(view, pretty)


@command("explain", examples=("lain explain", "lain explain --app hello -o json"))
@app_argument
def explain(run: Run, app: str | None) -> None:
    """Why is the app not well: findings with evidence and the next command, the worst first."""
    name = run.app(app)
    view = run.call(lambda console: console.explain(name))
    run.show(view, lambda screen: draw_findings(screen, view))


_SEVERITY = {"error": "bad", "warning": "warn", "ok": "good", "info": ""}


def draw_findings(screen: Screen, view: ExplainView) -> None:
    screen.prose(f"{view.app}: {view.headline}", "bold")
    for finding in view.findings:
        where = finding.proc + (f"-{finding.instance}" if finding.instance is not None else "")
        where += f" on {finding.node}" if finding.node else ""
        screen.line()
        screen.prose(
            f"{finding.severity}: {where + ': ' if where else ''}{finding.what}",
            _SEVERITY.get(str(finding.severity), ""),
        )
        if finding.why:
            screen.prose(f"  why: {finding.why}")
        for line in finding.evidence:
            screen.line(f"    {line}", "dim")
        if finding.next:
            screen.line(f"  next: {finding.next}")


@command("open", examples=("lain open", "lain open --print"))
@app_argument
@click.option("--print", "only_print", is_flag=True, help="Print the address; open nothing.")
def open_(run: Run, app: str | None, only_print: bool) -> None:
    """Open the app in a browser; prints its address and a curl line that needs no DNS."""
    name = run.app(app)
    view = run.call(lambda console: console.app(name))
    if not view.routes:
        raise LainError(
            f"{name} has no address", why="it has no web proc, or is not deployed", next="lain ps", code="no_route"
        )
    route = by_reach(view.routes, run.phase.domain)[0]
    url = url_of(run, route.host, route.path, https=route.https_only)
    curl = curl_line(run, route.host, route.path, https=route.https_only)
    run.show({"url": url, "curl": curl}, lambda screen: screen.lines(url, curl))
    if not only_print and run.screen.width is not None:
        click.launch(url)


def by_reach(routes: tuple[RouteView, ...], domain: str) -> list[RouteView]:
    """Routes people can most likely reach first: under the phase's domain, then other names, ``.lain`` (apps only) last; roots first."""
    return sorted(
        routes,
        key=lambda one: (
            not one.host.endswith(f".{domain}"),
            one.host.endswith(".lain"),
            one.path != "/",
            one.host,
            one.path,
        ),
    )


def url_of(run: Run, host: str, path: str, *, https: bool) -> str:
    port = run.phase.router_https if https else run.phase.router_http
    usual = 443 if https else 80
    scheme = "https" if https else "http"
    return f"{scheme}://{host}{'' if port == usual else f':{port}'}{path}"


def curl_line(run: Run, host: str, path: str, *, https: bool) -> str:
    """A curl command that reaches the route whatever DNS says."""
    port = run.phase.router_https if https else run.phase.router_http
    router = run.phase.router or "127.0.0.1"
    insecure = "-k " if https else ""
    return f"curl {insecure}--resolve {host}:{port}:{router} {url_of(run, host, path, https=https)}"
