"""Carries out what ``build.py`` planned: has bases here, feeds docker the work tree, and says what came of it.

It makes images, and for ``build.volumes`` two containers and named cache volumes; it removes the containers, and nothing it did not
make itself.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING

from lain_cli import build, git, worktree
from lain_cli.build import DockerBuild
from lain_cli.context import Run
from lain_cli.docker import BuildFailed, failure
from lain_cli.images import APP_LABEL, PHASE_LABEL, PrepareKey, image, script_digest
from lain_cli.registry import PrepareRegistry
from lain_cli.render import count, duration, size
from lain_shared.errors import Invalid, LainError, Unavailable

if TYPE_CHECKING:
    from lain_sdk.manifest import Build, Manifest


@dataclass(frozen=True, slots=True)
class BuiltImage:
    """One image that a build made or tagged. ``size_bytes``: of all its layers."""

    phase: str
    reference: str
    id: str
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Built:
    """What ``lain build`` answers. ``version`` is None for a repository without a commit (``--dirty``)."""

    app: str
    version: str | None
    dirty: bool
    images: tuple[BuiltImage, ...]
    seconds: float


class Builder:
    """Builds the app of one directory. ``pull``: fetch base images even when they are here."""

    def __init__(self, run: Run, *, allow_dirty: bool = False, pull: bool = False) -> None:
        self._run = run
        self._pull = pull
        self.manifest: Manifest = run.manifest
        self.app = self.manifest.appname
        self.tree = git.inspect(run.directory)
        self.version = git.build_version(self.tree, allow_dirty=allow_dirty)
        section = self.manifest.build
        pairs = build.arguments_of(section) if section is not None else ()
        self._args = build.build_args(pairs, run.environ)
        self._docker = run.docker
        self._started = time.monotonic()
        self._selection: worktree.Selection | None = None

    # --- the phases ---

    def images(self, *, release_only: bool = False) -> Built:
        """Build, release and meta images. ``release_only``: start from the build image that is here."""
        self._docker.available()
        if self.manifest.image:
            self._docker.ensure(self.manifest.image, pull=self._pull)
            self._tag("release", self.manifest.image)
        else:
            build.refuse_readable(self.manifest, self._args)
            if not release_only:
                self.build_image()
            elif self._docker.inspect(self._name("build")) is None:
                raise LainError(f"there is no image {self._name('build')}", next="lain build", code="image_missing")
            step = build.release_step(self.manifest, self.version)
            if step is None or not step.bases:
                build.refuse_shown(self._history(self._name("build")), self._args)
            if step is None:
                self._tag("release", self._name("build"))
            else:
                self._make(step)
        self._make(build.meta_step(self.app, self.version, self._run.manifest_bytes()))
        phases = ("release", "meta") if self.manifest.image else ("build", "release", "meta")
        return self._built(phases)

    def build_image(self) -> None:
        """The build image alone."""
        section = self._section()
        if section.dockerfile:
            root = str(self._run.directory)
            self._make(build.dockerfile_step(self.app, section, self.version, root, self._args))
            return
        base = section.base
        if section.prepare is not None:
            base = f"{self.app}:{self.prepare_image()}"
        self._docker.ensure(section.base, pull=self._pull)
        if section.volumes:
            self._volume_build(section, base)
        else:
            self._make(build.build_step(self.app, section, self.version, base, self._args))

    def prepare_image(self) -> str:
        """The tag of the prepare image: the newest that fits, here or in the private registry, else a new one."""
        section = self._section()
        if section.prepare is None:
            raise Invalid("the manifest has no build.prepare", next="see lain-yaml, build.prepare", code="no_prepare")
        self._docker.ensure(section.base, pull=self._pull)
        key = self._prepare_key(section)
        registry = PrepareRegistry(self._run)
        here = key.newest(self._docker.tags(self.app))
        there = key.newest(registry.tags(self.app))
        if there is not None and (here is None or (key.time_of(there) or 0) > (key.time_of(here) or 0)):
            self._say(f"prepare image {self.app}:{there} from {registry.address}")
            registry.pull(self.app, there)
            return there
        if here is not None:
            self._say(f"prepare image {self.app}:{here} is here already")
        else:
            here = key.tag(int(time.time()))
            self._make(build.prepare_step(self.app, section, section.prepare, here, self._args))
        if here != there:
            self._share(registry, here)
        return here

    def prepare_update(self) -> str:
        """The prepare script once more, on top of the prepare image; the tag of the new one."""
        old = self.prepare_image()
        section = self._section()
        if section.prepare is None:
            raise Invalid("the manifest has no build.prepare", code="no_prepare")
        new = self._prepare_key(section).tag(int(time.time()))
        source = f"{self.app}:{old}"
        self._make(build.prepare_update_step(self.app, section.prepare, source, new, self._args))
        self._share(PrepareRegistry(self._run), new)
        return new

    def test(self) -> None:
        """Build, then the tests, without cache. ``BuildFailed`` when one fails."""
        if self.manifest.test is None or not self.manifest.test.script:
            raise Invalid("the manifest has no test.script", next="add test: {script: [...]}", code="no_test")
        self._docker.available()
        self.build_image()
        try:
            self._make(build.test_step(self.manifest, self.version))
        except BuildFailed as error:
            raise LainError("the tests failed", why=error.why, evidence=error.evidence, code="tests_failed") from error

    # --- parts ---

    def _section(self) -> Build:
        if self.manifest.build is None:
            raise Invalid(
                "nothing is built for this app",
                why=f"its manifest takes the image {self.manifest.image}",
                code="no_build",
            )
        return self.manifest.build

    def _prepare_key(self, section: Build) -> PrepareKey:
        if section.prepare is None:
            raise Invalid("the manifest has no build.prepare", code="no_prepare")
        if section.prepare.version is not None:
            return PrepareKey(section.prepare.version)
        base = self._docker.inspect(section.base) or {}
        base_id = str(base.get("Id", "")).removeprefix("sha256:")[:10]
        return PrepareKey(None, base_id, script_digest(section.base, section.prepare.commands))

    def _share(self, registry: PrepareRegistry, tag: str) -> None:
        """Give the prepare image to others, unless they could read in its history what came from this environment."""
        if not registry.address:
            return
        if names := build.from_environment(self._args):
            self._say(f"prepare image {self.app}:{tag} is not shared: {', '.join(names)} could be read in it")
            return
        registry.push(self.app, tag)

    def _history(self, reference: str) -> str:
        """The lines that made an image, each with the build arguments it saw."""
        return self._docker.ask("image", "history", "--no-trunc", "--format", "{{.CreatedBy}}", reference) or ""

    def _name(self, phase: str) -> str:
        return image(self.app, phase, self.version)

    def _tag(self, phase: str, source: str) -> None:
        self._docker.tag(source, self._name(phase))

    def _make(self, step: DockerBuild) -> None:
        for base in step.bases:
            self._docker.ensure(base, pull=self._pull and not base.startswith(f"{self.app}:"))
        note = ""
        if step.tree:
            selection = self._files()
            note = f"  ({count(len(selection.paths), 'path')}, {size(selection.size_bytes())}, by {selection.rule})"
        self._say(f"{step.phase} image {step.tags[0]}{note}")

        def feed(target: IO[bytes]) -> None:
            extra = {"Dockerfile": (step.dockerfile or "").encode(), **step.files}
            worktree.write_tar(target, self._files() if step.tree else None, extra)

        self._docker.stream(
            step.argv(),
            feed=feed if step.dockerfile is not None else None,
            extra_environ=step.environ(),
            what=f"{step.phase} image",
        )

    def _files(self) -> worktree.Selection:
        if self._selection is None:
            self._selection = worktree.select(self._run.directory)
        return self._selection

    def _built(self, phases: Sequence[str]) -> Built:
        found = []
        for phase in phases:
            document = self._docker.inspect(self._name(phase)) or {}
            found.append(
                BuiltImage(phase, self._name(phase), str(document.get("Id", "")), int(document.get("Size", 0) or 0))
            )
        seconds = round(time.monotonic() - self._started, 2)
        return Built(self.app, self.version, self.tree.dirty, tuple(found), seconds)

    def _say(self, text: str) -> None:
        self._run.progress.line(f"==> {text}", "bold")

    # --- build.volumes: run and commit ---

    def _volume_build(self, section: Build, base: str) -> None:
        """The script runs in a container whose listed directories outlive it, in named volumes; then it becomes the build image."""
        inter = build.DockerBuild(
            phase="script_inter",
            tags=(self._name("script_inter"),),
            dockerfile=f"FROM {base}\nWORKDIR {build.WORKDIR}/\nCOPY app/ {build.WORKDIR}/\n",
            tree=True,
            labels=build.labels(self.app, "script_inter", self.version),
            bases=(base,),
        )
        self._make(inter)
        mounts: list[str] = []
        for path in section.volumes:
            name = cache_volume(self.app, path)
            self._docker.ask(
                "volume", "create", "--label", f"{APP_LABEL}={self.app}", "--label", f"{PHASE_LABEL}=cache", name
            )
            mounts += ["--volume", f"{name}:{path}"]
        self._say(f"build script, with {', '.join(section.volumes)} kept between builds")
        waiting = ["--entrypoint", "/bin/sh", inter.tags[0], "-c", "while :; do sleep 3600; done"]
        worker = self._create([*mounts, *waiting])
        carrier = ""
        try:
            self._run_script(worker, build.joined(section.script) or ":")
            carrier = self._create([self._commit(worker)])
            for path in section.volumes:
                self._carry(worker, carrier, path)
            self._make(self._with_commands_of(inter.tags[0], self._commit(carrier)))
        finally:
            for container in (worker, carrier):
                if container:
                    self._docker.ask("container", "rm", "--force", container, missing_ok=True)

    def _create(self, words: Sequence[str]) -> str:
        marks = ["--label", f"{APP_LABEL}={self.app}", "--label", f"{PHASE_LABEL}=build"]
        return (self._docker.ask("container", "create", *marks, *words) or "").strip()

    def _run_script(self, container: str, script: str) -> None:
        """Run the script inside. It is executed rather than started so that its variables do not end up in the image."""
        self._docker.ask("container", "start", container)
        words = ["container", "exec", "--workdir", build.WORKDIR]
        for arg in self._args:
            words += ["--env", arg.name if arg.source is not None else f"{arg.name}={arg.value}"]
        environ = {arg.name: arg.value for arg in self._args if arg.source is not None}
        try:
            self._docker.stream(
                [*words, container, "/bin/sh", "-c", script], extra_environ=environ, what="build script"
            )
        except Unavailable:
            raise
        except LainError as error:
            raise BuildFailed("the build script failed", why=error.why, evidence=error.evidence) from error

    def _commit(self, container: str) -> str:
        """An image without a name out of a container."""
        return (self._docker.ask("container", "commit", container) or "").strip()

    def _with_commands_of(self, original: str, image_id: str) -> DockerBuild:
        """The build image: ``image_id``, with command and entry point of ``original`` instead of those that kept a container waiting."""
        config = (self._docker.inspect(original) or {}).get("Config") or {}
        entrypoint, command = json.dumps(config.get("Entrypoint") or []), json.dumps(config.get("Cmd") or [])
        return DockerBuild(
            phase="build",
            tags=(self._name("build"),),
            dockerfile=f"FROM {image_id}\nENTRYPOINT {entrypoint}\nCMD {command}\n",
            labels=build.labels(self.app, "build", self.version),
        )

    def _carry(self, source: str, target: str, path: str) -> None:
        """Copy a directory from one container to another, streaming."""
        parent = path.rstrip("/").rsplit("/", 1)[0] or "/"
        environ = dict(self._run.environ)
        reading = subprocess.Popen(["docker", "cp", f"{source}:{path}", "-"], stdout=subprocess.PIPE, env=environ)
        words = ["cp", "-", f"{target}:{parent}"]
        writing = subprocess.run(
            ["docker", *words], stdin=reading.stdout, capture_output=True, check=False, env=environ
        )
        if reading.stdout:
            reading.stdout.close()
        if reading.wait() != 0 or writing.returncode != 0:
            raise failure(words, writing.returncode, writing.stderr.decode(errors="replace").splitlines(), what=path)


def cache_volume(app: str, path: str) -> str:
    """The name of the volume that keeps ``path`` of ``app`` between builds."""
    return f"lain-cache-{app}-{hashlib.sha256(path.encode()).hexdigest()[:12]}"


def summary(built: Built) -> str:
    """The last line of a build."""
    release = next((made for made in built.images if made.phase == "release"), built.images[-1])
    return f"{release.reference}  {size(release.size_bytes)}  in {duration(built.seconds)}"
