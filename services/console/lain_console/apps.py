"""Use cases on registrations: reserve a name and its default hosts, give it back, share a host, take an app out of service."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import structlog

from lain_console.operations.candidate import domains
from lain_console.operations.start import AppBusy, Intent, Starter
from lain_console.state import CLUSTER, Scene, State, VolumesUnknown
from lain_sdk.api_types import HostView, VolumeView
from lain_sdk.manifest import default_hosts, normal_giturl, validate_appname
from lain_shared import keys
from lain_shared.errors import Conflict, NotFound, Refused
from lain_shared.model.app import App, Operation, OperationKind, OperationPhase
from lain_shared.model.route import HostClaim
from lain_shared.store import ABSENT, Delete, Expectation, ModRevision, Write

log = structlog.get_logger()


class NameTaken(Conflict):
    code = "name_taken"


@dataclass(frozen=True, slots=True)
class Apps:
    """Register, unregister, guests of a host, undeploy."""

    state: State
    starter: Starter
    now: Callable[[], float] = field(repr=False)

    async def register(self, name: str, giturl: str, who: str) -> App:
        """Reserve ``name`` and its default hosts. Raises ``InvalidName``, ``NameTaken``."""
        validate_appname(name)
        state = self.state
        config = await state.cluster_config()
        app = App(name, who, self.now(), giturl=normal_giturl(giturl))
        hosts = default_hosts(name, domains(config.value))
        existing, owners = await asyncio.gather(
            state.apps.get(name), asyncio.gather(*(state.hosts.get(host) for host in hosts))
        )
        if existing is not None:
            raise _name_taken(existing.value)
        for owner in owners:
            if owner is not None and owner.value.owner != name:
                raise NameTaken(
                    f"{name!r} cannot be registered: its host {owner.value.host} belongs to app {owner.value.owner!r}",
                    why="that app declared it as a mountpoint first",
                    next="choose another name, or have that app's owner drop the mountpoint",
                    evidence={"host": owner.value.host, "owner": owner.value.owner},
                )
        expect: list[Expectation] = [
            ModRevision(keys.APPS.key(name), ABSENT),
            ModRevision(keys.CONFIG.key(CLUSTER), config.entry.mod_revision),
            *(
                ModRevision(keys.HOSTS.key(host), ABSENT if owner is None else owner.entry.mod_revision)
                for host, owner in zip(hosts, owners, strict=True)
            ),
        ]
        writes: list[Write] = [state.apps.put_op(app, name)]
        writes.extend(state.hosts.put_op(HostClaim(host, name, default=True), host) for host in hosts)
        try:
            await state.store.txn(expect, writes)
        except Conflict as error:
            existing = await state.apps.get(name)
            if existing is not None:
                raise _name_taken(existing.value) from error
            raise Conflict(
                f"{name!r} could not be registered: the cluster changed meanwhile", next="try again", retry_seconds=1.0
            ) from error
        log.info("app_registered", app=name, who=who)
        return app

    async def unregister(self, name: str, who: str) -> None:
        """Give the name, its hosts, its releases and its history back. Refused while anything of it runs, or is kept on a disk."""
        state = self.state
        scene = await state.scene(name)
        self._require_gone(scene)
        await self._require_no_volumes(name)
        claims = await state.all_claims()
        own_hosts = {host for host, stored in claims.hosts.items() if stored.value.owner == name}
        guests = sorted({stored.value.app for (host, _), stored in claims.routes.items() if host in own_hosts} - {name})
        if guests:
            raise Conflict(
                f"{name!r} still has guests on its hosts: {', '.join(guests)}",
                next="undeploy them, or have them drop those mountpoints",
                code="has_guests",
            )
        unknown = sorted(host + path for host, path in claims.unreadable_routes if host in own_hosts)
        if unknown:
            raise Conflict(
                f"{name!r} may still have guests on its hosts: who has {', '.join(unknown)} cannot be read",
                next="an operator upgrades this console, or restores those records",
                code="has_guests",
            )
        listed = await asyncio.gather(
            *(state.store.list(family.under(name)) for family in (keys.RELEASES, keys.HISTORY, keys.KEPT_IMAGES))
        )
        own = [
            *(stored.entry for host, stored in sorted(claims.hosts.items()) if host in own_hosts),
            *(stored.entry for _, stored in sorted(claims.routes.items()) if stored.value.app == name),
        ]
        try:
            await state.store.txn(
                [
                    ModRevision(scene.app.entry.key, scene.app.entry.mod_revision),
                    ModRevision(keys.OPERATIONS.key(name), ABSENT),
                    *(ModRevision(entry.key, entry.mod_revision) for entry in own),
                ],
                [
                    state.apps.delete_op(name),
                    *(Delete(entry.key) for entry in own),
                    *(Delete(entry.key) for listing in listed for entry in listing.entries),
                ],
            )
        except Conflict as error:
            raise Conflict(
                f"{name!r} or a host of it changed meanwhile", why=error.message, next="try again", retry_seconds=1.0
            ) from error
        log.info("app_unregistered", app=name, who=who)

    def _require_gone(self, scene: Scene) -> None:
        name = scene.app.value.name
        if scene.operation is not None:
            holder = scene.holder.value if scene.holder is not None else None
            raise AppBusy(scene.operation.value, holder, self.now())
        if scene.app.value.release is not None or scene.desired:
            raise Conflict(
                f"{name!r} is deployed", next=f"take it out of service first: lain undeploy {name}", code="deployed"
            )

    async def _require_no_volumes(self, name: str) -> None:
        """Whoever registers the name next would be given their data."""
        if nodes := await self.state.deletions_of(name):
            raise Conflict(
                f"volumes of {name!r} are being deleted on {', '.join(nodes)}",
                next="wait for it (seconds), then try again",
                evidence={"nodes": list(nodes)},
                retry_seconds=2.0,
                code="deleting_volumes",
            )
        found = await self.state.volumes_of(name)
        if found:
            listed = ", ".join(f"{volume} on {node}" for node, volumes in found.items() for volume in volumes)
            raise Conflict(
                f"{name!r} still has volumes: {listed}",
                why="whoever registers the name next would get their data",
                next=f"delete them: lain undeploy --delete-volumes {name}",
                evidence={
                    "volumes": [{"node": node, "name": volume} for node, volumes in found.items() for volume in volumes]
                },
                code="has_volumes",
            )

    async def set_guests(self, name: str, host: str, guests: Sequence[str], who: str) -> HostView:
        """Which other apps may claim paths on a host that ``name`` owns. Those it has are not driven out."""
        await self.state.app(name)
        stored = await self.state.hosts.get(host)
        if stored is None or stored.value.owner != name:
            raise NotFound(f"{name!r} does not own host {host!r}", code="host_not_found")
        for guest in guests:
            await self.state.app(guest)
        claim = replace(stored.value, guests=tuple(sorted(set(guests) - {name})))
        await self.state.hosts.put(claim, host, expect=stored.entry.mod_revision)
        log.info("host_shared", app=name, host=host, guests=list(claim.guests), who=who)
        return HostView(claim.host, claim.owner, claim.guests, claim.default)

    async def undeploy(
        self, name: str, who: str, delete_volumes: str | None = None
    ) -> tuple[Operation, tuple[VolumeView, ...]]:
        """Take the app out of service. Its name, releases and history stay; so do its volumes, which are listed, unless
        ``delete_volumes`` is the app's name: then their nodes delete them once nothing of the app is left there."""
        if delete_volumes is not None and delete_volumes != name:
            raise Refused(
                f"delete_volumes is {delete_volumes!r}, not the app's name",
                why="the name is asked for because what is deleted does not come back",
                next=f"give the name exactly: {name}",
                code="not_confirmed",
            )
        deleting = delete_volumes is not None

        async def plan(scene: Scene) -> Intent | None:
            if scene.app.value.release is None and not scene.desired and not (deleting and await self.volumes(name)):
                raise NotFound(
                    f"app {name!r} is not deployed", next=f"deploy it: lain deploy {name}", code="not_deployed"
                )
            text = f"undeploy {name}" + (" and delete its volumes" if deleting else "")
            return Intent(OperationKind.UNDEPLOY, OperationPhase.REMOVING, None, text, delete_volumes=deleting)

        operation = await self.starter.start(name, who, plan)
        assert operation is not None  # noqa: S101 - the plan above always has something to do
        return operation, await self.volumes(name)

    async def volumes(self, name: str) -> tuple[VolumeView, ...]:
        """The instance volumes of an app, on whichever node they are; none while what is on a node cannot be read."""
        try:
            found = await self.state.volumes_of(name)
        except VolumesUnknown:
            found = {}
        return tuple(VolumeView(node, volume) for node, volumes in found.items() for volume in volumes)

    async def settle_deletions(self) -> None:
        """One pass of the loop that takes back orders that were carried out: the node no longer lists any of the volumes."""
        orders, _ = await self.state.volume_deletions.list_readable()
        if not orders:
            return
        states, _ = await self.state.node_states.list_readable()
        there = {stored.value.node: set(stored.value.volumes) for stored in states}
        for order in orders:
            deletion = order.value
            if deletion.node not in there or there[deletion.node] & set(deletion.volumes):
                continue
            try:
                await self.state.volume_deletions.delete(deletion.node, deletion.app, expect=order.entry.mod_revision)
            except Conflict:
                continue  # another console was faster
            log.info(
                "volumes_deleted", app=deletion.app, node=deletion.node, volumes=deletion.volumes, who=deletion.who
            )


def _name_taken(app: App) -> NameTaken:
    return NameTaken(
        f"the name {app.name!r} is taken",
        why=f"{app.owner} registered it",
        next="choose another appname in lain.yaml; if it is yours, go on: lain push, lain deploy",
        evidence={"owner": app.owner, "created_at": app.created_at},
    )
