"""``ship``: from the commit in this directory to the cluster, in one go."""

from __future__ import annotations

import click

from lain_cli.building import Builder, summary
from lain_cli.commands.apps import register
from lain_cli.commands.deploy import DETACH, TIMEOUT, deploy_app
from lain_cli.commands.images import PhaseRegistry
from lain_cli.context import Run
from lain_cli.git import require_version
from lain_cli.options import command


@command("ship", examples=("lain ship", "lain ship --register -p local", "lain ship --detach"))
@click.option("--register", "registering", is_flag=True, help="Register the app first if it is not.")
@click.option("--pull", is_flag=True, help="Fetch base images even when they are here.")
@click.option("--replace", is_flag=True, help="Take over from a deploy that is running.")
@DETACH
@TIMEOUT
def ship(run: Run, *, registering: bool, pull: bool, replace: bool, detach: bool, timeout: float | None) -> None:
    """Build, push and deploy this commit."""
    builder = Builder(run, pull=pull)
    run.call(lambda console: console.whoami())  # a cluster that cannot be reached is told before minutes of building
    if registering and register(run, builder.app, builder.manifest.giturl):
        run.progress.line(f"==> registered {builder.app} in {run.phase.name}", "bold")
    version = require_version(builder.tree)
    with PhaseRegistry(run) as registry:
        built = builder.images()
        run.progress.line(f"==> built {summary(built)}", "bold")
        registry.push(builder.app, version)
    deploy_app(run, builder.app, version, replace=replace, detach=detach, timeout=timeout)
