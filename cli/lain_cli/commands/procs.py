"""Procs that run: scale, restart, stop, start."""

from __future__ import annotations

import re

import click

from lain_cli.commands.deploy import DETACH, TIMEOUT
from lain_cli.context import Run
from lain_cli.follow import conclude
from lain_cli.options import app_option, command
from lain_cli.targets import read_proc, read_target
from lain_shared.errors import NotFound

LEAST_MEMORY = 6 * 1024**2
_SIZE = re.compile(r"([1-9][0-9]*)([mMgG])\Z")
_UNITS = {"m": 1024**2, "g": 1024**3}


class MemorySize(click.ParamType[int]):
    """``64m``, ``2G``: powers of 1024, as in the manifest; at least 6 MiB."""

    name = "SIZE"

    def convert(self, value: str | int, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        found = _SIZE.match(value)
        if found is None:
            self.fail(f"{value!r} is no size: a positive number and m, M, g or G", param, ctx)
        size = int(found[1]) * _UNITS[found[2].lower()]
        if size < LEAST_MEMORY:
            self.fail(f"{value!r} is too little: at least 6m, the least an Engine can limit to", param, ctx)
        return size


WORDS = click.argument("words", nargs=-1, metavar="[APP] [PROC] [N]")


@command("scale", examples=("lain scale web -n 3 -m 64M", "lain scale web --reset", "lain scale -p prod web -c 4"))
@click.argument("words", nargs=-1, required=True, metavar="[APP] PROC [N]")
@app_option
@click.option("-n", "--numinstances", "instances", type=click.IntRange(1), metavar="N", help="Instances, at least 1.")
@click.option("-c", "--cpu", type=click.IntRange(0, 8), metavar="LEVEL", help="CPU level, 0 (a share) to 8.")
@click.option("-m", "--memory", type=MemorySize(), metavar="SIZE", help="Memory limit, as 64m or 2G.")
@click.option("--reset", is_flag=True, help="Back to what the manifest says.")
@click.option("--replace", is_flag=True, help="Take over from an operation that is running.")
@DETACH
@TIMEOUT
def scale(
    run: Run,
    *,
    words: tuple[str, ...],
    app: str | None,
    instances: int | None,
    cpu: int | None,
    memory: int | None,
    reset: bool,
    replace: bool,
    detach: bool,
    timeout: float | None,
) -> None:
    """Change instances, CPU or memory of a proc; it holds over deploys until --reset. N is short for -n N."""
    target = read_proc(run, words, app)
    if target.number is not None:
        if instances not in (None, target.number) or target.number < 1:
            raise click.UsageError("say the number of instances once, at least 1")
        instances = target.number
    if instances is None and cpu is None and memory is None and not reset:
        raise click.UsageError("say what to change: -n, -c, -m or --reset")
    name, proc = str(target.app), str(target.proc)
    try:
        accepted = run.call(
            lambda console: console.scale(name, proc, instances, cpu=cpu, memory=memory, reset=reset, replace=replace)
        )
    except NotFound as error:
        error.next = error.next or f"deploy it first: lain deploy {run.hint}--app {name}"
        raise
    conclude(run, name, accepted, "scale", detach=detach, timeout_seconds=timeout)


@command("restart", examples=("lain restart", "lain restart web", "lain restart web 2"))
@WORDS
@app_option
@DETACH
@TIMEOUT
def restart(run: Run, *, words: tuple[str, ...], app: str | None, detach: bool, timeout: float | None) -> None:
    """Replace running instances by new ones, without losing a request: all, of one proc, or one instance."""
    target = read_target(run, words, app)
    name = str(target.app)
    accepted = run.call(lambda console: console.restart(name, target.proc, target.number))
    conclude(run, name, accepted, "restart", detach=detach, timeout_seconds=timeout)


@command("stop", examples=("lain stop web", "lain stop web 2", "lain stop --app hello"))
@WORDS
@app_option
@click.option("--replace", is_flag=True, help="Take over from an operation that is running.")
@DETACH
@TIMEOUT
def stop(
    run: Run,
    *,
    words: tuple[str, ...],
    app: str | None,
    replace: bool,
    detach: bool,
    timeout: float | None,
) -> None:
    """Stop instances: all, of one proc, or one. They keep number and volumes; lain start brings them back."""
    target = read_target(run, words, app)
    name = str(target.app)
    accepted = run.call(lambda console: console.stop(name, target.proc, target.number, replace=replace))
    conclude(run, name, accepted, "stop", detach=detach, timeout_seconds=timeout)


@command("start", examples=("lain start web", "lain start web 2"))
@WORDS
@app_option
@DETACH
@TIMEOUT
def start(run: Run, *, words: tuple[str, ...], app: str | None, detach: bool, timeout: float | None) -> None:
    """Start instances that were stopped: all, of one proc, or one."""
    target = read_target(run, words, app)
    name = str(target.app)
    accepted = run.call(lambda console: console.start(name, target.proc, target.number))
    conclude(run, name, accepted, "start", detach=detach, timeout_seconds=timeout)
