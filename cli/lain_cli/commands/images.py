"""Images: build them, test them, tag, push, check, copy between clusters, and clean up what this app left on this machine."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from typing import Self

import click

from lain_cli import failures, git
from lain_cli.building import Builder, Built, summary
from lain_cli.config import Phase
from lain_cli.context import Run
from lain_cli.docker import Docker
from lain_cli.images import APP_LABEL, PHASES, image, parse_tag
from lain_cli.options import app_argument, app_option, command
from lain_cli.registry import PrepareRegistry
from lain_cli.render import Screen, columns, size
from lain_shared.errors import Invalid, NotFound

PUSHED = ("release", "meta")


def show_built(run: Run, built: Built) -> None:
    def pretty(screen: Screen) -> None:
        rows = [[made.phase, made.reference, size(made.size_bytes), made.id[7:19]] for made in built.images]
        screen.table(columns("PHASE", "IMAGE", "SIZE", "ID"), rows)
        screen.line(f"built {summary(built)}", "good")

    run.show(built, pretty)


@command("build", phase=False, examples=("lain build", "lain build --dirty", "lain build --release --push"))
@click.option("--push", is_flag=True, help="Share the images with private_docker_registry too.")
@click.option("-r", "--release", "release_only", is_flag=True, help="Start from the build image that is here.")
@click.option("--dirty", is_flag=True, help="Build uncommitted changes into local images marked -dirty.")
@click.option("--pull", is_flag=True, help="Fetch base images even when they are here.")
def build(run: Run, push: bool, release_only: bool, dirty: bool, pull: bool) -> None:
    """Build the app's images from this commit: build, release, meta.

    The work tree is read, never written. Finished steps are cached.
    """
    builder = Builder(run, allow_dirty=dirty, pull=pull)
    built = builder.images(release_only=release_only)
    if push:
        registry = PrepareRegistry(run)
        if not registry.address:
            raise Invalid(
                "no private_docker_registry is configured", next="lain config save-global private_docker_registry HOST:PORT",
                code="no_private_registry",
            )  # fmt: skip
        registry.push_version(built.app, _clean(built.version), PUSHED)
    show_built(run, built)


@command("prepare", phase=False, examples=("lain prepare",))
@click.option("--pull", is_flag=True, help="Fetch the base image even when it is here.")
def prepare(run: Run, pull: bool) -> None:
    """Build the image of dependencies (build.prepare), or reuse the newest that fits.

    With private_docker_registry configured, it is shared there.
    """
    builder = Builder(run, allow_dirty=True, pull=pull)
    reference = f"{builder.app}:{builder.prepare_image()}"
    run.show({"image": reference}, lambda screen: screen.line(reference))


@command("prepare-update", phase=False, examples=("lain prepare-update",))
def prepare_update(run: Run) -> None:
    """Run the prepare script again on top of its image, under a new timestamp."""
    builder = Builder(run, allow_dirty=True)
    reference = f"{builder.app}:{builder.prepare_update()}"
    run.show({"image": reference}, lambda screen: screen.line(reference))


@command("test", phase=False, examples=("lain test", "lain test --dirty"))
@click.option("--dirty", is_flag=True, help="Test uncommitted changes too.")
def test(run: Run, dirty: bool) -> None:
    """Build, then run test.script on the build image, never from the cache."""
    builder = Builder(run, allow_dirty=dirty)
    builder.test()
    run.show(
        {"app": builder.app, "meta_version": builder.version, "passed": True}, lambda s: s.line("tests passed", "good")
    )


@dataclass(frozen=True, slots=True)
class Pushed:
    """One image as the registry now has it."""

    phase: str
    reference: str
    digest: str


class PhaseRegistry:
    """The phase's registry, logged in to for as long as it is open: a wrong password is told before anything else is done."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        phase = self._run.phase
        self._address = registry_of(self._run, phase)
        login = self._run.docker.logged_in(self._address, phase.registry_user, phase.registry_password)
        self._docker = self._stack.enter_context(login)
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def push(self, app: str, version: str) -> tuple[Pushed, ...]:
        """Tag and upload both images of a version."""
        pushed: list[Pushed] = []
        for kind in PUSHED:
            remote = image(app, kind, version, self._address)
            self._docker.tag(image(app, kind, version), remote)
            self._run.progress.line(f"==> pushing {remote}", "bold")
            self._docker.push(remote)
            pushed.append(Pushed(kind, remote, _digest(self._docker, remote)))
        return tuple(pushed)


def registry_of(run: Run, phase: Phase) -> str:
    """``host:port`` of the phase's registry: configured, else what the console says."""
    if phase.registry:
        return phase.registry
    if phase.console:
        found = Run(run.environ, run.directory)
        found.phase_name = phase.name
        if address := found.call(lambda console: console.cluster()).registry_push:
            return address
    raise Invalid(
        f"phase {phase.name} has no registry", next=f"lain config save {phase.name} registry HOST:PORT",
        code="phase_incomplete",
    )  # fmt: skip


def _digest(docker: Docker, reference: str) -> str:
    repository = reference.rsplit(":", 1)[0]
    document = docker.inspect(reference) or {}
    for entry in document.get("RepoDigests") or ():
        name, _, digest = str(entry).partition("@")
        if name == repository:
            return digest
    return ""


def _clean(version: str | None) -> str:
    if version is None:
        raise Invalid("there is no commit, so there is no version to share", next="git commit", code="no_commit")
    if version.endswith(git.DIRTY):
        raise Invalid(
            "images of uncommitted changes stay on this machine", why="a version in a registry always means one commit",
            next="git commit, then lain build", code="dirty_tree",
        )  # fmt: skip
    return version


def _require_images(docker: Docker, app: str, version: str) -> None:
    docker.available()
    for kind in PUSHED:
        if docker.inspect(image(app, kind, version)) is None:
            raise NotFound(
                f"there is no image {image(app, kind, version)} on this machine", next="lain build", code="not_built"
            )


def head_version(run: Run) -> str:
    """The version of this directory's commit. Uncommitted changes are not part of it, and a word says so."""
    tree = git.inspect(run.directory)
    version = git.require_version(tree)
    if tree.dirty:
        run.progress.line("note: uncommitted changes are not part of this version", "warn")
    return version


@command("tag", examples=("lain tag", "lain tag -p prod"))
def tag(run: Run) -> None:
    """Tag this commit's images for the phase's registry (lain push does it by itself)."""
    app, version = run.app(None), head_version(run)
    address = registry_of(run, run.phase)
    _require_images(run.docker, app, version)
    tags = [image(app, kind, version, address) for kind in PUSHED]
    for kind, target in zip(PUSHED, tags, strict=True):
        run.docker.tag(image(app, kind, version), target)
    run.show({"tags": tags}, lambda screen: screen.lines(*tags))


@command("push", examples=("lain push", "lain push -p prod"))
def push(run: Run) -> None:
    """Upload this commit's release and meta images to the phase's registry."""
    app, version = run.app(None), head_version(run)
    _require_images(run.docker, app, version)
    with PhaseRegistry(run) as registry:
        show_pushed(run, app, version, registry.push(app, version))


def show_pushed(run: Run, app: str, version: str, pushed: tuple[Pushed, ...]) -> None:
    def pretty(screen: Screen) -> None:
        screen.table(columns("PHASE", "IMAGE", "DIGEST"), [[one.phase, one.reference, one.digest] for one in pushed])
        screen.line(f"pushed {app} {version}; next: lain deploy {run.hint}", "good")

    run.show({"app": app, "meta_version": version, "images": pushed}, pretty)


@command("check", examples=("lain check", "lain check -p prod"))
@app_argument
@click.option("-v", "--version", metavar="VERSION", help="Another version than this commit's.")
def check(run: Run, app: str | None, version: str | None) -> int:
    """Are both images of this commit in the phase's registry? Exit code 1 when not."""
    name, wanted = run.app(app), version or head_version(run)
    view = run.call(lambda console: console.versions(name))
    found = next((one for one in view.versions if one.meta_version == wanted), None)
    missing = list(PUSHED) if found is None else ([found.missing] if not found.deployable else [])

    def pretty(screen: Screen) -> None:
        for kind in PUSHED:
            there = kind not in missing
            screen.line(f"{kind}-{wanted}: {'there' if there else 'missing'}", "good" if there else "bad")

    run.show({"app": name, "meta_version": wanted, "deployable": not missing, "missing": missing}, pretty)
    return failures.Exit.FAILED if missing else failures.Exit.DONE


@command("clear", phase=False, examples=("lain clear", "lain clear --without prepare,build"))
@click.option("-w", "--without", metavar="PHASES", default="", help="Phases to keep, by comma.")
@app_argument
def clear(run: Run, without: str, app: str | None) -> None:
    """Remove this app's unversioned local images and build caches, and nothing else.

    Phases: prepare, script_inter, build, release, test, meta, cache.
    """
    keep = {word.strip() for word in without.split(",") if word.strip()}
    if unknown := keep - {*PHASES, "cache"}:
        raise click.UsageError(f"unknown phase {sorted(unknown)[0]!r}; known: {', '.join((*PHASES, 'cache'))}")
    name = run.app(app)
    tags = set(run.docker.tags(name))
    removed = [f"{name}:{phase}" for phase in PHASES if phase in tags and phase not in keep]
    for reference in removed:
        run.docker.ask("image", "rm", reference)
    if "cache" not in keep:
        marks = ["--filter", f"label={APP_LABEL}={name}", "--filter", "label=lain.phase=cache"]
        for volume in (run.docker.ask("volume", "ls", "--quiet", *marks) or "").split():
            run.docker.ask("volume", "rm", volume)
            removed.append(volume)
    _show_removed(run, removed)


@command("rmi", examples=("lain rmi", "lain rmi -p prod"))
@app_argument
def rmi(run: Run, app: str | None) -> None:
    """Remove local copies of the app's images for the phase's registry; versions a container runs from stay."""
    name = run.app(app)
    address = registry_of(run, run.phase)
    running = {str(document.get("Image")) for document in run.docker.containers(all=False)}
    removed: list[str] = []
    kept: list[str] = []
    used = set()
    repository = f"{address}/{name}"
    by_tag = {
        tag: str((run.docker.inspect(f"{repository}:{tag}") or {}).get("Id")) for tag in run.docker.tags(repository)
    }
    for tag, id in by_tag.items():
        if id in running and (found := parse_tag(tag)):
            used.add(found[1])
    for tag in by_tag:
        reference, found = f"{repository}:{tag}", parse_tag(tag)
        if found and found[1] in used:
            kept.append(reference)
        else:
            run.docker.ask("image", "rm", reference)
            removed.append(reference)
    _show_removed(run, removed, kept)


def _show_removed(run: Run, removed: list[str], kept: list[str] | None = None) -> None:
    def pretty(screen: Screen) -> None:
        for reference in removed:
            screen.line(f"removed {reference}")
        for reference in kept or ():
            screen.line(f"kept {reference}: a container runs from this version", "warn")
        if not removed and not kept:
            screen.line("there is nothing to remove")

    run.show({"removed": removed, "kept": kept or []}, pretty)


@command(
    "sync", phase=False, examples=("lain sync test prod", "lain sync test prod --app hello -v 1500000000-0123abc…")
)
@click.argument("source", metavar="SRC")
@click.argument("target", metavar="DST")
@click.argument("old_app", metavar="[APP]", required=False)
@click.argument("old_version", metavar="[VERSION]", required=False)
@app_option
@click.option("-v", "--version", metavar="VERSION", help="Version to copy (default: this commit's).")
def sync(
    run: Run,
    *,
    source: str,
    target: str,
    old_app: str | None,
    old_version: str | None,
    app: str | None,
    version: str | None,
) -> None:
    """Copy one version from the registry of phase SRC to that of phase DST."""
    name = app or old_app or run.app(None)
    wanted = version or old_version or head_version(run)
    here, there = run.config.phase(source), run.config.phase(target)
    from_address, to_address = registry_of(run, here), registry_of(run, there)
    run.docker.available()
    with run.docker.logged_in(from_address, here.registry_user, here.registry_password) as docker:
        for kind in PUSHED:
            docker.pull(image(name, kind, wanted, from_address))
    copied = []
    with run.docker.logged_in(to_address, there.registry_user, there.registry_password) as docker:
        for kind in PUSHED:
            remote = image(name, kind, wanted, to_address)
            docker.tag(image(name, kind, wanted, from_address), remote)
            docker.push(remote)
            copied.append(remote)
    document = {"app": name, "meta_version": wanted, "images": copied}
    run.show(document, lambda screen: screen.lines(*(f"copied {one}" for one in copied)))
