"""Use cases that make a release: deploy, roll back, change the environment. Each plans on what stands now, then starts an operation."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from lain_console.adapters.registry import FileMissing, ImageMissing, Registry
from lain_console.operations.candidate import (
    Candidate,
    PlanRefused,
    after_release,
    changed_env,
    differs,
    domains,
    half_pushed,
    identity,
    judge_env,
    missing_parts,
    only,
    overridden,
    refused,
    refused_deploy,
    same_origins,
)
from lain_console.operations.claims import plan_claims
from lain_console.operations.desired import oneshots_of
from lain_console.operations.plan import judge_limits, judge_room, make_plan
from lain_console.operations.start import Intent, Starter
from lain_console.state import CLUSTER, Scene, State
from lain_sdk.api_types import PlanView, Problem, Verdict
from lain_sdk.manifest import (
    Version,
    default_hosts,
    load,
    newest_deployable,
    normal_giturl,
    parse_image,
    require_version,
    versions,
)
from lain_shared import keys
from lain_shared.errors import Conflict, NotFound
from lain_shared.model.app import App, Operation, OperationKind, OperationPhase, Release
from lain_shared.model.config import ClusterConfig
from lain_shared.model.pod import Desired
from lain_shared.placement import Room, make_rooms
from lain_shared.records import Stored
from lain_shared.store import Expectation, ModRevision

MANIFEST_NAMES = ("lain.yaml", "lain.yml")
MAX_MANIFEST_BYTES = 256 * 1024


@dataclass(frozen=True, slots=True)
class Started:
    """What became of a request: its plan, and the operation if there was anything to do."""

    plan: PlanView
    operation: Operation | None = None


@dataclass(frozen=True, slots=True)
class Releases:
    """Deploy, roll back, change the environment."""

    state: State
    registry: Registry
    starter: Starter
    now: Callable[[], float] = field(repr=False)

    # --- versions -----------------------------------------------------------------------------------------------------

    async def versions(self, app: str) -> tuple[Version, ...]:
        """Every version in the registry, newest first. A version whose manifest is missing counts as not deployable."""
        await self.state.app(app)
        return versions(await self.registry.tags(app))

    # --- deploy -------------------------------------------------------------------------------------------------------

    async def plan(
        self, app: str, who: str, meta_version: str | None, proc: str | None, *, replace_running: bool = False
    ) -> PlanView:
        """What a deploy would do. A refused plan is an answer."""
        scene = await self.state.scene(app)
        candidate = await self._deploy_candidate(scene, who, meta_version, proc)
        plan, _ = await self._judge(scene, candidate)
        if scene.operation is not None and not replace_running:
            running = scene.operation.value
            warning = Problem(
                "busy",
                f"{app} is busy now: {running.kind.value} by {running.who}, phase {running.phase.value}",
                next=f"wait for it, lain cancel {app}, or lain deploy --replace {app}",
            )
            plan = replace(plan, warnings=(*plan.warnings, warning))
        return plan

    async def deploy(
        self, app: str, who: str, meta_version: str | None, proc: str | None, *, replace_running: bool = False
    ) -> Started:
        async def candidate(scene: Scene) -> Candidate:
            return await self._deploy_candidate(scene, who, meta_version, proc)

        return await self._start(app, who, candidate, replace_running=replace_running)

    async def _deploy_candidate(self, scene: Scene, who: str, meta_version: str | None, proc: str | None) -> Candidate:
        app = scene.app.value
        config, version = await asyncio.gather(self.state.cluster_config(), self._choose(app.name, meta_version))
        manifest = load(await self._manifest_text(app.name, version), instance=True)
        refusals = [*identity(app, manifest), *missing_parts(manifest, config.value)]
        if proc is not None and proc not in manifest.procs:
            raise NotFound(
                f"version {version} of {app.name} has no proc {proc!r}",
                evidence={"procs": sorted(manifest.procs)},
                code="proc_not_found",
            )
        parent = await self._parent(scene)
        if proc is not None and parent is None:
            refusals.append(
                Problem("not_deployed", f"{app.name} is not deployed: one proc alone cannot be",
                        next=f"lain deploy {app.name}")
            )  # fmt: skip
        wanted = manifest.images(version)
        names = [proc] if proc is not None else list(wanted)
        images, missing = await self._resolve({name: wanted[name] for name in names})
        refusals.extend(missing)
        if refusals:
            return Candidate(OperationKind.DEPLOY, None, tuple(refusals))
        number = app.last_release + 1
        procs = manifest.desired(
            domains=domains(config.value),
            images={**dict.fromkeys(wanted, ""), **images},
            release=number,
            env=app.env,
            meta_version=version,
            timezone=config.value.timezone,
        )
        origins: dict[str, int] = {}
        if proc is not None and parent is not None:
            procs = only(proc, procs, parent.procs)
            origins = {each.proc: parent.origin_of(each) for each in parent.procs if each.proc != proc}
        release = Release(
            app.name,
            number,
            version,
            manifest.text,
            procs,
            dict(app.env),
            self.now(),
            who,
            parent=parent.number if parent is not None else None,
            giturl=normal_giturl(manifest.giturl),
            origins=origins,
        )
        return Candidate(OperationKind.DEPLOY, release, expectations=(_unchanged(config),))

    async def _choose(self, app: str, meta_version: str | None) -> str:
        """The version asked for, or the newest deployable; raises ``NotFound`` with what there is."""
        if meta_version is not None:
            require_version(meta_version)
        tags = await self.registry.tags(app)
        known = versions(tags)
        if not known:
            raise NotFound(
                f"the registry has no version of {app}",
                next="build and push one: lain build && lain push",
                code="no_versions",
            )
        if meta_version is None:
            newest = newest_deployable(tags)
            if newest is None:
                raise PlanRefused(refused_deploy(app, half_pushed(app, known[0].name)))
            return newest
        if all(version.name != meta_version for version in known):
            raise NotFound(
                f"the registry has no version {meta_version} of {app}",
                why=f"there is no tag meta-{meta_version}",
                next=f"push it (lain push), or choose one of: lain versions {app}",
                evidence={"newest": [version.name for version in known[:5]]},
                code="version_not_found",
            )
        if not any(version.deployable for version in known if version.name == meta_version):
            raise PlanRefused(refused_deploy(app, half_pushed(app, meta_version)))
        return meta_version

    async def _manifest_text(self, app: str, version: str) -> bytes:
        try:
            return await self.registry.read_file(app, f"meta-{version}", MANIFEST_NAMES, max_bytes=MAX_MANIFEST_BYTES)
        except FileMissing as error:
            raise PlanRefused(
                refused_deploy(app, Problem("no_manifest", error.message, why=error.why, next=error.next))
            ) from error

    async def _resolve(self, wanted: Mapping[str, str]) -> tuple[dict[str, str], list[Problem]]:
        """proc → ``repository@digest`` for every image that is there, and a refusal for every one that is not."""

        async def one(reference: str) -> str | Problem:
            parsed = parse_image(reference)
            if parsed is None or parsed.host:
                return Problem(
                    "image_elsewhere",
                    f"image {reference} is not one of this cluster's registry",
                    why="nodes pull from the cluster's registry only",
                    next=f"push it there first (lain sync {reference} …) and name it without a host",
                )
            try:
                digest = await self.registry.digest(parsed.repository, parsed.digest or parsed.tag or "latest")
            except ImageMissing as error:
                return Problem(
                    "image_missing", error.message, why="the tag was never pushed, or was deleted", next="lain push"
                )
            return f"{parsed.repository}@{digest}"

        references = sorted(set(wanted.values()))
        found = dict(zip(references, await asyncio.gather(*map(one, references)), strict=True))
        images: dict[str, str] = {}
        missing: list[Problem] = []
        for proc, reference in wanted.items():
            match found[reference]:
                case Problem() as problem:
                    missing.append(replace(problem, proc=proc))
                case image:
                    images[proc] = image
        return images, missing

    # --- roll back ----------------------------------------------------------------------------------------------------

    async def rollback(self, app: str, who: str, number: int | None) -> Started:
        """A new release equal to a kept one; its images and claims are checked before anything moves. No oneshot runs."""

        async def candidate(scene: Scene) -> Candidate:
            current = await self._parent(scene)
            if current is None:
                raise Conflict(f"{app} is not deployed: there is nothing to go back from", code="not_deployed")
            old = await self.state.release(app, number if number is not None else await self._before(current))
            config = await self.state.cluster_config()
            gone = await self._gone(old)
            fresh = scene.app.value.last_release + 1
            release = replace(
                old,
                number=fresh,
                procs=tuple(replace(each, release=fresh) for each in old.procs),
                created_at=self.now(),
                who=who,
                parent=current.number,
                rollback_of=old.number,
                note=f"back to release {old.number}",
                origins=same_origins(old),
            )
            return Candidate(OperationKind.ROLLBACK, release, tuple(gone), (_unchanged(config),))

        return await self._start(app, who, candidate)

    async def _before(self, current: Release) -> int:
        """The release before the current one; what was itself a rollback counts as what it went back to."""
        seen = current
        while seen.rollback_of is not None:
            stored = await self.state.releases.get(current.app, seen.rollback_of)
            if stored is None:
                break
            seen = stored.value
        if seen.parent is None:
            raise Conflict(
                f"{current.app} has no release before {seen.number}",
                next=f"see what there is: lain history {current.app}",
                code="no_parent",
            )
        return seen.parent

    async def _gone(self, release: Release) -> list[Problem]:
        images = sorted({each.template.image for each in release.procs})

        async def one(image: str) -> Problem | None:
            repository, _, digest = image.partition("@")
            try:
                await self.registry.digest(repository, digest)
            except ImageMissing as error:
                return Problem(
                    "image_missing",
                    f"release {release.number} cannot run again: {error.message}",
                    why="the image was deleted from the registry",
                    next=f"choose another release (lain history {release.app}), or push that version again and deploy it",
                )
            return None

        return [problem for problem in await asyncio.gather(*map(one, images)) if problem is not None]

    # --- environment --------------------------------------------------------------------------------------------------

    async def set_env(self, app: str, who: str, values: Mapping[str, str], unset: Sequence[str]) -> Started | None:
        """Change the app's environment: a running app gets a new release. None: there was nothing to do, or nothing runs."""
        judge_env(values)
        stored = await self.state.app(app)
        if stored.value.release is None:
            await self._store_env(stored, values, unset)
            return None

        async def candidate(scene: Scene) -> Candidate:
            current = await self._parent(scene)
            if current is None:
                raise Conflict(f"{app} is not deployed any more", retry_seconds=1.0)
            config = await self.state.cluster_config()
            env = changed_env(scene.app.value.env, values, unset)
            number = scene.app.value.last_release + 1
            release = replace(
                current,
                number=number,
                procs=await self._with_env(current, env, config.value, number),
                env=env,
                created_at=self.now(),
                who=who,
                parent=current.number,
                rollback_of=None,
                note="environment: " + ", ".join([*sorted(values), *(f"-{name}" for name in sorted(unset))]),
                origins=same_origins(current),
            )
            return Candidate(OperationKind.ENV, release, (), (_unchanged(config),))

        return await self._start(app, who, candidate)

    async def _store_env(self, stored: Stored[App], values: Mapping[str, str], unset: Sequence[str]) -> None:
        app = stored.value
        env = changed_env(app.env, values, unset)
        await self.state.store.txn(
            [
                ModRevision(stored.entry.key, stored.entry.mod_revision),
                ModRevision(keys.OPERATIONS.key(app.name), 0),
            ],
            [self.state.apps.put_op(replace(app, env=env), app.name)],
        )

    async def _with_env(
        self, current: Release, env: Mapping[str, str], config: ClusterConfig, number: int
    ) -> tuple[Desired, ...]:
        """The procs of ``current`` with another environment; each from the manifest of the release it is made from."""
        made: dict[int, Mapping[str, Desired]] = {}
        for origin in {current.origin_of(each) for each in current.procs}:
            release = current if origin == current.number else await self.state.release(current.app, origin)
            images = {each.proc: each.template.image for each in current.procs}
            manifest = load(release.manifest, instance=True)
            procs = manifest.desired(
                domains=domains(config),
                images={**dict.fromkeys(manifest.procs, ""), **images},
                release=number,
                env=env,
                meta_version=release.meta_version,
                timezone=config.timezone,
            )
            made[origin] = {each.proc: each for each in procs}
        return tuple(
            replace(
                each,
                release=number,
                template=replace(each.template, env=made[current.origin_of(each)][each.proc].template.env),
            )
            for each in current.procs
        )

    # --- from a candidate to an operation -----------------------------------------------------------------------------

    async def _start(
        self, app: str, who: str, candidate: Callable[[Scene], Awaitable[Candidate]], *, replace_running: bool = False
    ) -> Started:
        plans: list[PlanView] = []

        async def plan(scene: Scene) -> Intent | None:
            view, intent = await self._judge(scene, await candidate(scene))
            plans.append(view)
            if view.verdict is Verdict.REFUSED:
                raise PlanRefused(view)
            return intent if view.verdict is Verdict.GO or scene.operation is not None else None

        operation = await self.starter.start(app, who, plan, replace_running=replace_running)
        return Started(plans[-1], operation)

    async def _judge(self, scene: Scene, candidate: Candidate) -> tuple[PlanView, Intent | None]:
        """The plan of a candidate and, unless it is refused, the intent to start it with."""
        app, release = scene.app.value, candidate.release
        before = dict(scene.operation.value.before) if scene.operation is not None else scene.wanted
        if release is None:
            return refused(app.name, candidate), None
        parent = await self._parent(scene)
        once = oneshots_of(release) if candidate.kind is not OperationKind.ROLLBACK else ()
        after = after_release(release, app, before)
        hosts = {route.host for desired in release.procs for route in desired.routes}
        claims, rooms, config = await asyncio.gather(
            self.state.claims_on(hosts), self._rooms(), self.state.cluster_config()
        )
        claim_plan = plan_claims(app.name, release.procs, claims, default_hosts(app.name, domains(config.value)))
        limits = [problem for desired in after.values() for problem in judge_limits(desired)]
        no_room, tight = judge_room(before, {**{each.proc: each for each in once}, **after}, rooms)
        plan = make_plan(
            app.name,
            candidate.kind,
            before=before,
            after=after,
            oneshots=once if differs(before, after) else (),
            refusals=(*candidate.refusals, *claim_plan.refusals, *limits, *no_room),
            warnings=(*tight, *overridden(release, app)),
            release=release.number,
            parent=parent.number if parent is not None else None,
            meta_version=release.meta_version,
            parent_meta_version=parent.meta_version if parent is not None else "",
        )
        procs = [*once, *after.values()]
        intent = Intent(
            candidate.kind,
            OperationPhase.ONESHOTS,
            release.number,
            f"{candidate.kind.value} of release {release.number} ({release.meta_version})",
            new_release=release,
            deadline_seconds=max((each.deploy_deadline_seconds for each in procs), default=300.0),
            expectations=(*candidate.expectations, *claim_plan.expectations),
            writes=claim_plan.writes,
        )
        return plan, intent

    async def _parent(self, scene: Scene) -> Release | None:
        """The release that runs; under a running operation, the one it would go back to."""
        number = scene.operation.value.parent if scene.operation is not None else scene.app.value.release
        return None if number is None else await self.state.release(scene.app.value.name, number)

    async def _rooms(self) -> dict[str, Room]:
        return await read_rooms(self.state)


async def read_rooms(state: State) -> dict[str, Room]:
    """Every node with what is assigned to it, as placement sees it. One whose state cannot be read gets no pods."""
    (nodes, _), (alive, _), (states, _), (assigned, _) = await asyncio.gather(
        state.nodes.list_readable(),
        state.alive.list_readable(),
        state.node_states.list_readable(),
        state.assignments.list_readable(),
    )
    return make_rooms(
        {each.value.name: each.value for each in nodes},
        {each.value.node for each in alive},
        {each.value.node: each.value for each in states},
        [(keys.ASSIGN.parse(each.entry.key)[0], each.value) for each in assigned],
    )


def _unchanged(config: Stored[ClusterConfig]) -> Expectation:
    return ModRevision(keys.CONFIG.key(CLUSTER), config.entry.mod_revision)
