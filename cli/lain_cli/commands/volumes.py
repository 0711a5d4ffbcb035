"""``lainctl volume``: the data of instances on a node, and giving up what is lost of it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, TypeVar

import click

from lain_cli.context import Run
from lain_cli.options import command, group
from lain_cli.render import Cell, Screen, columns
from lain_shared.errors import LainError, Unavailable

if TYPE_CHECKING:
    from lain_sdk.client import Agent

T = TypeVar("T")


def on_node(run: Run, node: str, use: Callable[[Agent], Coroutine[Any, Any, T]]) -> T:
    """Do one thing with the agent of a node: it alone knows what is on its disk."""

    async def body() -> T:
        async with run.deployd() as deployd:
            view = await deployd.node(node)
        if view.alive is None:
            raise Unavailable(
                f"node {node} is away",
                why="its agent is not present",
                next=f"lainctl node inspect {node}",
                code="node_away",
            )
        async with run.agent(view.alive.agent_url) as agent:
            try:
                return await use(agent)
            except Unavailable as error:
                raise Unavailable(
                    f"the agent of node {node} at {agent.url} cannot be asked from here", why=error.why or error.message,
                    next=f"type the same on a machine that reaches it; lainctl node inspect {node}", code=error.error_code,
                ) from error  # fmt: skip

    return asyncio.run(body())


@command("list", examples=("lainctl volume list n1",))
@click.argument("node", metavar="NODE")
def volume_list(run: Run, node: str) -> None:
    """Which instances have data on a node, where, and what of it is missing."""
    found = on_node(run, node, lambda agent: agent.volumes())

    def pretty(screen: Screen) -> None:
        if not found:
            screen.line(f"no instance has data on {node}")
            return
        rows: list[list[str | Cell]] = [
            [one.name, Cell("missing", "bad") if one.missing else Cell("there", "good"), one.path] for one in found
        ]
        screen.table(columns("VOLUME", "STATE", "PATH"), rows)

    run.show(found, pretty)


@command("confirm-loss", examples=("lainctl volume confirm-loss n1 hello.db-1",))
@click.argument("node", metavar="NODE")
@click.argument("volumes", metavar="VOLUME…", nargs=-1, required=True)
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
def volume_confirm_loss(run: Run, node: str, volumes: tuple[str, ...], yes: bool) -> None:
    """Give up data that is gone from a node's disk: the instance starts with none. Refused for data that is there."""
    if not yes:
        click.confirm(
            f"is the data of {', '.join(volumes)} lost for good? without it, {node} starts what it is of with nothing",
            abort=True, err=True,
        )  # fmt: skip

    async def confirm(agent: Agent) -> list[str]:
        done: list[str] = []
        for name in volumes:
            try:
                done.append((await agent.confirm_loss(name)).volume)
            except LainError as error:
                error.next = error.next or f"lainctl volume list {node}"
                error.evidence = {**error.evidence, **({"confirmed": done} if done else {})}
                raise
        return done

    done = on_node(run, node, confirm)
    run.show(
        {"node": node, "confirmed": done},
        lambda screen: screen.lines(*(f"{name} may start with no data on {node}" for name in done)),
    )


volume = group("volume", "Volumes: the data of instances on a node.", (volume_list, volume_confirm_loss))
