"""``lainctl bootstrap``: the two steps of a cluster's first minute, each safe to repeat.

lainctl bootstrap files     certificates and credentials under /etc/lain (before etcd starts)
lainctl bootstrap seed      etcd's users, the cluster's settings, the first node, the first token (once etcd answers)
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from lain_cli.bootstrap.files import make_files
from lain_cli.bootstrap.layout import ROOT_USER, Spec
from lain_shared.errors import Unavailable

WAIT_SECONDS = 60.0


def _options(function: Callable[..., None]) -> Callable[..., None]:
    options = (
        click.option("--root", type=click.Path(path_type=Path), default=Path("/etc/lain"), show_default=True, help="Where files go."),
        click.option("--cluster", default="lain", show_default=True, help="The cluster's name."),
        click.option("--node", default="n1", show_default=True, help="This node's name."),
        click.option("--address", default="127.0.0.1", show_default=True, help="This node's address, as other machines reach it."),
        click.option("--domain", default="lain.localhost", show_default=True, help="Main domain: an app answers at APP.DOMAIN."),
        click.option("--router-http-port", default=80, show_default=True, help="Port people reach the router at."),
        click.option("--router-https-port", default=443, show_default=True, help="The same, for HTTPS."),
        click.option("--registry-push", default="127.0.0.1:5000", show_default=True, help="HOST:PORT clients push images to."),
        click.option("--timezone", default="UTC", show_default=True, help="TZ of every container."),
        click.option("--name", "names", multiple=True, help="A further name or address of this machine, for its certificates."),
    )  # fmt: skip
    for option in reversed(options):
        function = option(function)
    return function


@click.group(epilog="Example: lainctl bootstrap files --node n1 --address 10.0.0.11")
def bootstrap() -> None:
    """Make a cluster's CA, certificates and first token. Every step may be repeated; nothing is ever overwritten."""


@bootstrap.command(epilog="Example: lainctl bootstrap files --address 10.0.0.11")
@_options
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    default=Path("/var/lib/lain"),
    show_default=True,
    help="Where parts keep data.",
)
def files(root: Path, data: Path, **values: Any) -> None:
    """Make certificates and credentials; renew certificates that are due."""
    _tell(make_files(root, data, Spec(**values), datetime.now(UTC)))


@bootstrap.command(epilog="Example: lainctl bootstrap seed --etcd 127.0.0.1:2379 --address 10.0.0.11")
@_options
@click.option(
    "--etcd", "endpoints", multiple=True, default=("127.0.0.1:2379",), show_default=True, help="HOST:PORT of etcd."
)
def seed(root: Path, endpoints: tuple[str, ...], **values: Any) -> None:
    """Write etcd's users and roles, the cluster's settings, the first node and the first operator token."""
    _tell(asyncio.run(_seed(root, endpoints, Spec(**values))))


async def _seed(root: Path, endpoints: tuple[str, ...], spec: Spec) -> tuple[str, ...]:
    from lain_cli.bootstrap.seed import seed as write_seed  # noqa: PLC0415 - gRPC is slow to import, `--help` need not wait
    from lain_shared import etcd_auth, keys  # noqa: PLC0415
    from lain_shared.etcd import EtcdStore  # noqa: PLC0415

    async with EtcdStore.connect(endpoints, tls_dir=root / "tls" / ROOT_USER) as store:
        deadline = time.monotonic() + WAIT_SECONDS
        while True:
            try:
                await store.get("/lain/")
                break
            except Unavailable:
                if time.monotonic() > deadline:
                    raise
                await asyncio.sleep(0.2)
        done = list(await write_seed(store, root, spec))
        nodes = [keys.NODES.parse(entry.key)[0] for entry in (await store.list(keys.NODES.prefix)).entries]
        if actions := await etcd_auth.apply(store, nodes):
            done.append(f"wrote etcd's users and roles ({len(actions)} changes) and switched its authentication on")
        return tuple(done)


def _tell(done: tuple[str, ...]) -> None:
    for line in done:
        click.echo(line)
    if not done:
        click.echo("nothing to do")
