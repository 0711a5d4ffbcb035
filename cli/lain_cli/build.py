"""From a manifest to docker builds (pure): Dockerfile text, argument vectors, and nothing else. No clock, no client, no file is touched.

A generated Dockerfile never lies in the work tree: it is the first member of the tar stream that the build reads, the tree being
below ``app/`` in it. So a user's own ``Dockerfile`` is a file like any other.
"""

from __future__ import annotations

import json
import posixpath
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from lain_cli.images import APP_LABEL, PHASE_LABEL, VERSION_LABEL, image
from lain_shared.errors import Invalid

if TYPE_CHECKING:
    from lain_sdk.manifest import Build, CopyItem, Manifest, Prepare

WORKDIR = "/lain/app"
STAGE_OUT = "/lain/.release"
_CLIENT_VARIABLES = ("PATH", "HOME", "USER", "TMPDIR")


@dataclass(frozen=True, slots=True)
class BuildArg:
    """One build argument. ``source``: the variable of the caller's environment its value comes from, or None for a literal value.

    A value from the environment may be a secret: it reaches docker by the environment, never by an argument.
    """

    name: str
    value: str = field(repr=False)
    source: str | None = None


@dataclass(frozen=True, slots=True)
class DockerBuild:
    """One ``docker build``.

    ``dockerfile``: generated text, with ``files`` and (``tree``) the work tree as context on standard input; None: docker reads
    ``directory`` and ``file`` itself.
    """

    phase: str
    tags: tuple[str, ...]
    dockerfile: str | None = None
    files: Mapping[str, bytes] = field(default_factory=dict)
    tree: bool = False
    directory: str = ""
    file: str = ""
    target: str = ""
    args: tuple[BuildArg, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    bases: tuple[str, ...] = ()
    """Images that must be here first; pulled when they are not."""
    no_cache: bool = False

    def argv(self) -> list[str]:
        """What follows ``docker`` on the command line."""
        words = ["build", "--rm", "--force-rm"]
        for tag in self.tags:
            words += ["--tag", tag]
        for key, value in self.labels.items():
            words += ["--label", f"{key}={value}"]
        for arg in self.args:
            words += ["--build-arg", arg.name if arg.source is not None else f"{arg.name}={arg.value}"]
        if self.no_cache:
            words.append("--no-cache")
        if self.target:
            words += ["--target", self.target]
        if self.dockerfile is not None:
            return [*words, "--file", "Dockerfile", "-"]
        return [*words, "--file", self.file, self.directory]

    def environ(self) -> dict[str, str]:
        """What docker finds in its environment: the values that came from ours."""
        return {arg.name: arg.value for arg in self.args if arg.source is not None}


def arguments_of(build: Build) -> tuple[tuple[str, str], ...]:
    """Every build argument the manifest names, in its order: ``build_arg``, then ``args``."""
    pairs = [line.partition("=") for line in build.build_arg]
    return (*((name, value) for name, _, value in pairs), *build.args.items())


def build_args(pairs: Sequence[tuple[str, str]], environ: Mapping[str, str]) -> tuple[BuildArg, ...]:
    """Resolve ``K=V`` pairs; ``V`` that starts with ``$`` is a variable of ``environ``. ``Invalid`` names every one that is not set."""
    found: list[BuildArg] = []
    missing: list[str] = []
    for name, value in pairs:
        if not value.startswith("$"):
            found.append(BuildArg(name, value))
            continue
        source = value[1:].strip("{}")
        if source not in environ:
            missing.append(source)
        elif name in _CLIENT_VARIABLES or name.startswith("DOCKER_"):
            raise Invalid(
                f"build argument {name} cannot come from the environment", why="docker itself reads that variable",
                next=f"give the argument another name: build_arg: [APP_{name}={value}]", code="build_arg_name",
            )  # fmt: skip
        else:
            found.append(BuildArg(name, environ[source], source))
    if missing:
        names = ", ".join(missing)
        raise Invalid(
            f"build_arg takes {names} from the environment, where {'it is' if len(missing) == 1 else 'they are'} not set",
            next=f"export {missing[0]}=… and try again", evidence={"missing": missing}, code="build_arg_missing",
        )  # fmt: skip
    return tuple(found)


def refuse_readable(manifest: Manifest, args: Sequence[BuildArg]) -> None:
    """``Invalid`` when a value from the environment would stand in the history of the release image, which a cluster's registry gets.

    Docker writes each argument a ``RUN`` could see beside it. ``release.dest_base`` leaves these layers behind; the script of a build with
    ``volumes`` is no ``RUN``. What a Dockerfile of the user's shows is not known before it is built: ``refuse_shown``.
    """
    part, release = manifest.build, manifest.release
    if part is None or part.dockerfile or (release is not None and release.dest_base):
        return
    if names := from_environment(args) if part.prepare is not None or not part.volumes else ():
        raise _readable(names)


def from_environment(args: Sequence[BuildArg]) -> tuple[str, ...]:
    """The names of the arguments whose values may be secrets."""
    return tuple(arg.name for arg in args if arg.source is not None)


def refuse_shown(history: str, args: Sequence[BuildArg]) -> None:
    """``Invalid`` when ``history``, of an image to be released, shows a value from the environment."""
    if names := tuple(arg.name for arg in args if arg.source and arg.value and f"{arg.name}={arg.value}" in history):
        raise _readable(names)


def _readable(names: Sequence[str]) -> Invalid:
    one = len(names) == 1
    return Invalid(
        f"{', '.join(names)} {'comes' if one else 'come'} from the environment and would be readable in the released image",
        why="docker keeps build arguments in the history of the image, and the release image is the build image",
        next="add release.dest_base, and in release.copy what the app needs of the build image; or write a value that is no secret",
        evidence={"arguments": list(names)}, code="build_arg_readable",
    )  # fmt: skip


def labels(app: str, phase: str, version: str | None) -> dict[str, str]:
    """What every image of ours carries, so that ``clear`` and ``rmi`` find exactly these."""
    found = {APP_LABEL: app, PHASE_LABEL: phase}
    if version:
        found[VERSION_LABEL] = version
    return found


def run_line(script: str) -> str:
    """One script line as a ``RUN`` of its own shell. The exec form keeps newlines, quotes, ``<<`` and leading dashes as they are."""
    return f"RUN {json.dumps(['/bin/sh', '-c', script], ensure_ascii=False)}"


def joined(lines: Sequence[str]) -> str:
    """Lines as one shell text: each in its own subshell, the first failure ends it."""
    return " && ".join(f"(\n{line}\n)" for line in lines)


def _declare(args: Sequence[BuildArg]) -> list[str]:
    return [f"ARG {arg.name}" for arg in args]


def _text(*lines: str | Sequence[str]) -> str:
    flat: list[str] = []
    for line in lines:
        flat.extend([line] if isinstance(line, str) else line)
    return "\n".join(flat) + "\n"


def prepare_step(app: str, build: Build, prepare: Prepare, tag: str, args: Sequence[BuildArg]) -> DockerBuild:
    """The cached dependency layer: the tree, the prepare script, then only what is kept."""
    script = joined(prepare.commands)
    return DockerBuild(
        phase="prepare",
        tags=(f"{app}:{tag}",),
        dockerfile=_text(
            f"FROM {build.base}", _declare(args), f"WORKDIR {WORKDIR}/", f"COPY app/ {WORKDIR}/", run_line(script)
        ),
        tree=True,
        args=tuple(args),
        labels=labels(app, "prepare", None),
        bases=(build.base,),
    )


def prepare_update_step(app: str, prepare: Prepare, old: str, tag: str, args: Sequence[BuildArg]) -> DockerBuild:
    """The prepare script again, on top of the prepare image ``old``."""
    return DockerBuild(
        phase="prepare",
        tags=(f"{app}:{tag}",),
        dockerfile=_text(
            f"FROM {old}",
            _declare(args),
            f"WORKDIR {WORKDIR}/",
            f"COPY app/ {WORKDIR}/",
            run_line(joined(prepare.commands)),
        ),
        tree=True,
        args=tuple(args),
        labels=labels(app, "prepare", None),
        no_cache=True,
    )


def build_step(app: str, build: Build, version: str | None, base: str, args: Sequence[BuildArg]) -> DockerBuild:
    """The build image: the tree on ``base`` (the manifest's, or a prepare image), then the script, line by line."""
    return DockerBuild(
        phase="build",
        tags=(image(app, "build", version),),
        dockerfile=_text(
            f"FROM {base}",
            _declare(args),
            f"WORKDIR {WORKDIR}/",
            f"COPY app/ {WORKDIR}/",
            [run_line(line) for line in build.script],
        ),
        tree=True,
        args=tuple(args),
        labels=labels(app, "build", version),
        bases=(base,),
    )


def dockerfile_step(app: str, build: Build, version: str | None, root: str, args: Sequence[BuildArg]) -> DockerBuild:
    """The user's own Dockerfile, by docker's own rules: its context, its ``.dockerignore``."""
    context = posixpath.normpath(posixpath.join(root, build.context))
    return DockerBuild(
        phase="build",
        tags=(image(app, "build", version),),
        directory=context,
        file=posixpath.normpath(posixpath.join(root, build.dockerfile)),
        target=build.target,
        args=tuple(args),
        labels=labels(app, "build", version),
    )


def release_step(manifest: Manifest, version: str | None) -> DockerBuild | None:
    """The runtime image on the build image's outcome; None when the build image is the release image as it is."""
    app, release = manifest.appname, manifest.release
    source = image(app, "build", version)
    if release is None or (not release.dest_base and not release.script):
        return None
    stage = [f"FROM {source} AS lain-build", f"WORKDIR {WORKDIR}/", *[run_line(line) for line in release.script]]
    bases: tuple[str, ...] = ()
    if release.dest_base:
        gather, copies = release_copies(release.copy)
        stage += [*gather, f"FROM {release.dest_base}", *copies, f"WORKDIR {WORKDIR}/"]
        bases = (release.dest_base,)
    return DockerBuild(
        phase="release",
        tags=(image(app, "release", version),),
        dockerfile=_text(stage),
        labels=labels(app, "release", version),
        bases=bases,
    )


def release_copies(items: Sequence[CopyItem]) -> tuple[list[str], list[str]]:
    """``release.copy`` as (lines of the build stage that gather, lines of the release stage that place).

    A source is expanded by the shell of the build image (globs, ``$``). A literal source lands at ``dest``; several matches, or a
    ``dest`` ending in ``/``, land in the directory ``dest``; without ``dest``, each match keeps its own path.
    """
    gather: list[str] = []
    copies: list[str] = []
    for number, item in enumerate(items):
        out = f"{STAGE_OUT}/{number}"
        expanded = _is_pattern(item.src)
        source = item.src if item.src.startswith(("/", "$")) else f"{WORKDIR}/{item.src}"
        words = _shell_pattern(source) if expanded else shlex.quote(_absolute(item.src))
        if expanded and item.dest == item.src:
            gather.append(run_line(_gather_in_place(words, out)))
            copies.append(f"COPY --from=lain-build {_json_copy(out + '/', '/')}")
            continue
        into = expanded or item.dest.endswith("/")
        dest = _absolute(item.dest)
        parent, name = (dest, "") if into else posixpath.split(dest)
        target = out if into else f"{out}/{name}"
        gather.append(run_line(f"mkdir -p {shlex.quote(out)} && cp -a -- {words} {shlex.quote(target)}"))
        copies.append(f"COPY --from=lain-build {_json_copy(out + '/', parent.rstrip('/') + '/')}")
    return gather, copies


def _gather_in_place(words: str, out: str) -> str:
    return (
        f"set -e; mkdir -p {out}; for f in {words}; do "
        f'case "$f" in /*) ;; *) f="{WORKDIR}/$f" ;; esac; '
        f'd="{out}$(dirname "$f")"; mkdir -p "$d"; cp -a -- "$f" "$d/"; done'
    )


def _json_copy(source: str, target: str) -> str:
    return json.dumps([source, target.replace("$", "\\$")], ensure_ascii=False)


def _is_pattern(source: str) -> bool:
    return source.startswith("$") or any(char in source for char in "*?[")


def _shell_pattern(source: str) -> str:
    """A source whose ``$`` and glob characters reach the shell as such, and nothing else does."""
    return "".join(char if char.isalnum() or char in "$*?[]{}_-./!:" else f"\\{char}" for char in source)


def _absolute(path: str) -> str:
    return posixpath.normpath(path if path.startswith("/") else f"{WORKDIR}/{path}")


def test_step(manifest: Manifest, version: str | None) -> DockerBuild:
    """Runs the test script on the build image, never from the cache."""
    app = manifest.appname
    script = manifest.test.script if manifest.test is not None else ()
    return DockerBuild(
        phase="test",
        tags=(image(app, "test", version),),
        dockerfile=_text(
            f"FROM {image(app, 'build', version)}", f"WORKDIR {WORKDIR}/", [run_line(line) for line in script]
        ),
        labels=labels(app, "test", version),
        no_cache=True,
    )


def meta_step(app: str, version: str | None, manifest_text: bytes) -> DockerBuild:
    """The meta image: one file, ``/lain.yaml``, on an empty base. The registry is the store of manifests."""
    return DockerBuild(
        phase="meta",
        tags=(image(app, "meta", version),),
        dockerfile="FROM scratch\nCOPY lain.yaml /lain.yaml\n",
        files={"lain.yaml": manifest_text},
        labels=labels(app, "meta", version),
    )
