"""``lainctl``: nodes, switches, routers, tokens."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import click

from lain_cli.commands.apps import without_empty
from lain_cli.context import Run
from lain_cli.options import command, group
from lain_cli.render import Cell, Column, Screen, ago, columns, count, size, when
from lain_shared import conditions
from lain_shared.model.node import ConditionStatus

if TYPE_CHECKING:
    from lain_shared.deployd_views import NodeView
    from lain_shared.model.node import NodeState


# --- nodes ------------------------------------------------------------------------------------------------------------


def node_state(view: NodeView) -> Cell:
    """Alive, cordoned, away, or never seen."""
    if view.alive is None:
        return Cell("away" if view.state is not None else "never seen", "bad")
    if view.state is not None and not view.state.engine_reachable:
        return Cell("Docker away", "bad")
    return Cell("cordoned", "warn") if view.node.cordoned else Cell("alive", "good")


def problems_of(state: NodeState) -> tuple[str, ...]:
    """What is wrong with a node, a few words each."""
    if not state.conditions:
        return state.problems
    return tuple(conditions.advice(one).what for one in conditions.found(state.conditions))


def draw_conditions(screen: Screen, name: str, state: NodeState) -> None:
    """What is wrong, the worst first; how much was looked at; and what could not be."""
    wrong = sorted(conditions.found(state.conditions), key=lambda one: not conditions.urgent(one))
    for one in wrong:
        told = conditions.advice(one)
        screen.line()
        screen.prose(f"{one.type}: {told.what}", "bad" if told.urgent else "warn")
        screen.prose(f"  why: {told.why}")
        screen.prose(f"  seen: {one.message} (for {ago(one.since)})")
        if line := conditions.step(one, block=state.block).on(name):
            screen.line(f"  next: {line}")
    unknown = [one for one in state.conditions if one.status is ConditionStatus.UNKNOWN]
    screen.line()
    found = f"{count(len(wrong), 'fault')} found" if wrong else "no fault found"
    screen.line(f"{found} of the {len(state.conditions)} that its agent looks for", "" if wrong else "good")
    if unknown:
        screen.prose("not known: " + "; ".join(f"{one.type} ({one.message})" for one in unknown), "dim")


@command("list", examples=("lainctl node list", "lainctl node list -o json"))
def node_list(run: Run) -> None:
    """Every node: address, state, pods, memory, disk."""
    views = run.call_deployd(lambda deployd: deployd.nodes())

    def pretty(screen: Screen) -> None:
        rows: list[list[str | Cell]] = []
        for view in views:
            state = view.state
            memory = f"{size(view.reserved_bytes)} of {size(state.memory_bytes)}" if state else ""
            disk = f"{size(state.disk_free_bytes)} free" if state else ""
            labels = ",".join(f"{key}={value}" for key, value in sorted(view.node.labels.items()))
            problems = "; ".join(problems_of(state)) if state else ""
            rows.append(
                [view.node.name, node_state(view), view.node.address, str(view.pods), memory, disk, labels, problems]
            )
        head = columns("NODE", "STATE", "ADDRESS", Column("PODS", right=True), "MEMORY", "DISK", "LABELS", "PROBLEMS")
        screen.table(*without_empty(head, rows))

    run.show(views, pretty)


@command("inspect", examples=("lainctl node inspect n1",))
@click.argument("name", metavar="NODE")
def node_inspect(run: Run, name: str) -> None:
    """One node: versions, capacity, addresses, volumes; what is wrong with it, since when, and the next command."""
    view = run.call_deployd(lambda deployd: deployd.node(name))

    def pretty(screen: Screen) -> None:
        pairs: list[tuple[str, str | Cell]] = [
            ("node", view.node.name), ("state", node_state(view)), ("address", view.node.address),
            ("labels", ", ".join(f"{key}={value}" for key, value in sorted(view.node.labels.items()))),
            ("pods", f"{view.pods}, reserving {size(view.reserved_bytes)}"),
        ]  # fmt: skip
        if view.alive is not None:
            pairs += [("agent", view.alive.agent_url), ("alive since", when(view.alive.since))]
        if (state := view.state) is not None:
            pairs += [
                ("cpus", str(state.cpus)), ("memory", f"{size(state.memory_bytes)}, of it {size(state.reserved_memory_bytes)} reserved"),
                ("disk", f"{size(state.disk_free_bytes)} free of {size(state.disk_total_bytes)}"),
                ("engine", state.engine_version), ("agent version", state.agent_version), ("kernel", state.kernel),
                ("block", f"{state.block}, {state.free_addresses} addresses free" if state.block else ""),
                ("volumes", ", ".join(state.volumes)),
            ]  # fmt: skip
            if not state.conditions:  # an agent that knows of no conditions
                pairs += [("problem", Cell(problem, "bad")) for problem in state.problems]
        screen.fields(pairs)
        if view.state is not None and view.state.conditions:
            draw_conditions(screen, name, view.state)

    run.show(view, pretty)


# --- switches ---------------------------------------------------------------------------------------------------------


@command("list", examples=("lainctl switch list",))
def switch_list(run: Run) -> None:
    """Every switch, who set it, when and why."""
    found = run.call_deployd(lambda deployd: deployd.switches())

    def pretty(screen: Screen) -> None:
        rows: list[list[str | Cell]] = [
            [one.name, Cell("on", "warn") if one.on else "off", one.by, when(one.at), one.why] for one in found
        ]
        screen.table(columns("SWITCH", "STATE", "BY", "AT", "WHY"), rows)

    run.show(found, pretty)


@command("set", examples=("lainctl switch set readonly on --why 'etcd upgrade'", "lainctl switch set readonly off"))
@click.argument("name")
@click.argument("state", type=click.Choice(("on", "off")))
@click.option("--why", default="", metavar="TEXT", help="Told to everybody whom it stops.")
def switch_set(run: Run, name: str, state: str, why: str) -> None:
    """Turn a switch on or off."""
    done = run.call_deployd(lambda deployd: deployd.set_switch(name, state == "on", why))
    run.show(done, lambda screen: screen.line(f"{done.name} is {'on' if done.on else 'off'}"))


# --- routers ----------------------------------------------------------------------------------------------------------


@command("list", examples=("lainctl router list",))
def router_list(run: Run) -> None:
    """Every router: applied revision, busy addresses, quarantined apps."""
    found = run.call_deployd(lambda deployd: deployd.routers())

    def pretty(screen: Screen) -> None:
        if not found:
            screen.line("no router has registered yet")
            return
        rows: list[list[str | Cell]] = []
        for one in found:
            state = one.state
            alive = Cell("away", "bad") if state is None else Cell("alive", "good")
            if state is not None and not state.boot_id:
                alive = Cell("no nginx", "bad")
            rows.append([
                one.router, one.node, alive, str(state.applied_revision) if state else "-",
                ago(state.applied_at) if state else "-", str(len(state.busy)) if state and state.busy else "",
                ", ".join(one.behind), ", ".join(state.quarantined) if state else "",
                ", ".join(state.not_applied) if state else "",
            ])  # fmt: skip
        head = columns(
            "ROUTER", "NODE", "STATE", Column("REVISION", right=True), Column("APPLIED", right=True),
            Column("BUSY", right=True), "BEHIND", "QUARANTINED", "NOT APPLIED",
        )  # fmt: skip
        screen.table(*without_empty(head, rows))

    run.show(found, pretty)


@command("forget", examples=("lainctl router forget n1",))
@click.argument("name", metavar="ROUTER")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
def router_forget(run: Run, name: str, yes: bool) -> None:
    """Wait no longer for a router that is gone for good."""
    if not yes:
        click.confirm(f"is router {name} really gone? pods will be stopped without its word", abort=True, err=True)
    run.call_deployd(lambda deployd: deployd.forget_router(name))
    run.show({"router": name, "forgotten": True}, lambda screen: screen.line(f"forgot router {name}"))


# --- tokens -----------------------------------------------------------------------------------------------------------


_SPAN = re.compile(r"(\d+)([hdw])\Z")


class Span(click.ParamType[float]):
    """``12h``, ``30d``, ``4w`` as seconds."""

    name = "SPAN"

    def convert(self, value: str | float, param: click.Parameter | None, ctx: click.Context | None) -> float:
        if isinstance(value, int | float):
            return float(value)
        found = _SPAN.match(value)
        if found is None or int(found[1]) == 0:
            self.fail(f"{value!r} is no span: 12h, 30d or 4w", param, ctx)
        return float(int(found[1]) * {"h": 3600, "d": 86400, "w": 7 * 86400}[found[2]])


@command(
    "create",
    examples=(
        "lainctl token create ci --role maintainer --apps hello,shop --expires 30d",
        "lainctl token create eve --role auditor",
    ),
)
@click.argument("name")
@click.option(
    "--role", required=True, type=click.Choice(("operator", "auditor", "admin", "maintainer", "viewer")),
    help="What it may do.",
)  # fmt: skip
@click.option("--apps", default="", metavar="APP,…", help="Good for these apps only (default: every app).")
@click.option("--expires", type=Span(), metavar="SPAN", help="12h, 30d, 4w (default: the cluster's).")
def token_create(run: Run, name: str, role: str, apps: str, expires: float | None) -> None:
    """Issue a token. Its text is printed this once and stored nowhere."""
    from lain_shared.model.config import Role  # noqa: PLC0415

    names = [word.strip() for word in apps.split(",") if word.strip()]
    issued = run.call(lambda console: console.issue_token(name, Role(role), names, expires_in_seconds=expires))

    def pretty(screen: Screen) -> None:
        run.progress.line(f"token {issued.token.id} of {name} ({role}), until {when(issued.token.expires_at)}:")
        screen.line(issued.text)

    run.show(issued, pretty)


@command("list", examples=("lainctl token list",))
def token_list(run: Run) -> None:
    """Every token that was issued and has not run out."""
    found = run.call(lambda console: console.tokens())

    def pretty(screen: Screen) -> None:
        rows: list[list[str | Cell]] = [
            [
                one.id, one.name, str(one.role), ",".join(one.apps) or "every app", when(one.expires_at),
                Cell("revoked", "bad") if one.revoked else "", one.created_by,
            ]
            for one in found
        ]  # fmt: skip
        screen.table(*without_empty(columns("ID", "NAME", "ROLE", "APPS", "EXPIRES", "STATE", "BY"), rows))

    run.show(found, pretty)


@command("revoke", examples=("lainctl token revoke 3f9c0a",))
@click.argument("token_id", metavar="ID")
def token_revoke(run: Run, token_id: str) -> None:
    """Revoke a token; every daemon refuses it within seconds."""
    run.call(lambda console: console.revoke_token(token_id))
    run.show({"id": token_id, "revoked": True}, lambda screen: screen.line(f"revoked {token_id}"))


node = group("node", "Nodes: what they have, and whether they live.", (node_list, node_inspect))
switch = group("switch", "Switches: readonly, maintenance, guard, breaker.", (switch_list, switch_set))
router = group("router", "Routers: what each nginx has really applied.", (router_list, router_forget))
token = group("token", "Tokens: who may do what, until when.", (token_create, token_list, token_revoke))
