"""``build``, ``release`` and ``test``: every key of the image sections, and how they become the model."""

from __future__ import annotations

from types import MappingProxyType
from typing import Any

from lain_sdk.manifest.parts import Build, CopyItem, Prepare, ReleaseSection, TestSection
from lain_sdk.manifest.reading import Found, Key, Kind, Section, Spot
from lain_sdk.manifest.source import Shape
from lain_sdk.manifest.values import (
    absolute_path,
    assignments,
    checked,
    image,
    list_of,
    raw_text,
    repository_path,
    text,
)

_line = text("a line of shell", most=64 * 1024)
script = list_of(_line, most=500)


def _build_arg_problem(value: str) -> str:
    name, found, _ = value.partition("=")
    if not found:
        return "there is no = in it"
    return "" if name.replace("_", "a").isalnum() and not name[0].isdigit() else f"{name[:40]!r} is no variable name"


build_arg = list_of(
    checked("`K=V`; a V that begins with $ comes from the caller's environment", _build_arg_problem), most=200
)


def _keep_problem(name: str) -> str:
    if "/" in name:
        return "only whole entries of /lain/app can be kept"
    return "this names no entry of /lain/app" if name.strip() in ("", ".", "..") or "\n" in name else ""


VERSION = Key(
    "version",
    text("letters and digits", pattern="[A-Za-z0-9]{1,64}", numbers=True),
    None,
    "fixed cache key; change it to rebuild",
    shown="made from base and script",
)
PREPARE_SCRIPT = Key("script", script, (), "commands run on `build.base`")
KEEP = Key(
    "keep",
    list_of(checked("a name of an entry of /lain/app", _keep_problem), most=200),
    (),
    "what stays in /lain/app; everything else there is deleted after the script",
)
PREPARE_ARG = Key("build_arg", build_arg, (), "as `build.build_arg`, for this layer")
PREPARE = Section(
    "build.prepare",
    (VERSION, PREPARE_SCRIPT, KEEP, PREPARE_ARG),
    "A layer of dependencies that is kept between builds. A list is short for its `script`.",
)


def _read_prepare(spot: Spot) -> Prepare | None:
    if spot.node.shape is Shape.LIST:
        lines = script.read(spot)
        return None if lines is None else Prepare(script=lines)
    found = PREPARE.read(spot)
    if found is None:
        return None
    return Prepare(VERSION.of(found), PREPARE_SCRIPT.of(found), KEEP.of(found), PREPARE_ARG.of(found))


BASE = Key("base", image(host=True), "", "base image", shown="needed, unless there is a `dockerfile`")
SCRIPT = Key("script", script, (), "compile commands, each in its own subshell in /lain/app, where the repository is")
BUILD_ARG = Key(
    "build_arg",
    build_arg,
    (),
    "Docker build arguments; those from the environment need `release.dest_base`, which leaves them behind",
)
BUILD_VOLUMES = Key(
    "volumes",
    list_of(absolute_path(), most=50),
    (),
    "directories kept under .lain-cache/ between builds; not with `release.script`",
)
PREPARE_KEY = Key(
    "prepare", Kind("a map, or a list of commands", _read_prepare), None, "a cached layer of dependencies", shown="none"
)
DOCKERFILE = Key(
    "dockerfile",
    repository_path("a path in the repository"),
    "",
    "build with this Dockerfile instead of `base` and `script`",
    shown="none",
)
CONTEXT = Key(
    "context",
    repository_path("a directory of the repository"),
    ".",
    "what the Dockerfile sees",
    only="with `dockerfile`",
)
TARGET = Key(
    "target",
    text("a name of a stage", pattern=r"[A-Za-z0-9_.-]{1,128}"),
    "",
    "stage of the Dockerfile to build",
    shown="the last",
    only="with `dockerfile`",
)
ARGS = Key(
    "args",
    assignments("`K=V` in a list, or a map", r"[A-Za-z_][A-Za-z0-9_]{0,255}", "=", mapping=True),
    None,
    "arguments of the Dockerfile",
    shown="none",
    only="with `dockerfile`",
)
_FROM_BASE: tuple[Key[Any, Any], ...] = (BASE, SCRIPT, BUILD_ARG, BUILD_VOLUMES, PREPARE_KEY)
_FROM_DOCKERFILE: tuple[Key[Any, Any], ...] = (CONTEXT, TARGET, ARGS)
BUILD = Section(
    "build",
    (BASE, SCRIPT, BUILD_ARG, BUILD_VOLUMES, PREPARE_KEY, DOCKERFILE, CONTEXT, TARGET, ARGS),
    "How the build image is made.",
)


def read_build(spot: Spot) -> Build | None:
    found = BUILD.read(spot)
    if found is None:
        return None
    if found.has(DOCKERFILE):
        for key in _FROM_BASE:
            if found.has(key):
                found.where(key).refuse(
                    f"{key.name} does not go with dockerfile",
                    code="conflict",
                    fix=f"remove {key.name} or dockerfile" + ("; arguments go under args" if key is BUILD_ARG else ""),
                )
    else:
        if not found.has(BASE):
            spot.under("base", spot.node).refuse(
                "base is missing",
                code="missing_key",
                found="nothing",
                allowed=BASE.kind.allowed,
                fix="add base: an image, or dockerfile: a path",
            )
        for key in _FROM_DOCKERFILE:
            if found.has(key):
                found.where(key).refuse(
                    f"{key.name} goes only with dockerfile",
                    code="conflict",
                    fix="add dockerfile, or remove it" if key is not ARGS else "add dockerfile, or use build_arg",
                )
    return Build(
        base=BASE.of(found),
        script=SCRIPT.of(found),
        build_arg=BUILD_ARG.of(found),
        volumes=tuple(dict.fromkeys(BUILD_VOLUMES.of(found))),
        prepare=PREPARE_KEY.of(found),
        dockerfile=DOCKERFILE.of(found),
        context=CONTEXT.of(found),
        target=TARGET.of(found),
        args=MappingProxyType(ARGS.of(found) or {}),
    )


COPY_SRC = Key("src", text("a path, a glob, or $VARIABLE"), "", "what, in the build image", required=True)
COPY_DEST = Key("dest", text("a path"), "", "where to, in the release image", shown="`src`")
COPY_ITEM = Section("copy item", (COPY_SRC, COPY_DEST))


def _read_copy(spot: Spot) -> CopyItem | None:
    if spot.node.shape is not Shape.MAP:
        path = raw_text(spot, allowed="a path, or {src, dest}", numbers=True)
        if path is not None and not path.strip():
            spot.refuse("it is empty", allowed="a path, or {src, dest}")
            return None
        return None if path is None else CopyItem(path, path)
    found = COPY_ITEM.read(spot)
    if found is None or not COPY_SRC.of(found):
        return None
    return CopyItem(COPY_SRC.of(found), COPY_DEST.of(found) or COPY_SRC.of(found))


RELEASE_SCRIPT = Key("script", script, (), "run on the build image before copying; not with `build.volumes`")
DEST_BASE = Key(
    "dest_base",
    image(host=True),
    "",
    "base image of the release image",
    shown="none: the build image is the release image",
)
COPY = Key(
    "copy",
    list_of(Kind("a path, or {src, dest}", _read_copy), most=500),
    (),
    "what is taken over onto `dest_base`; relative paths are under /lain/app",
)
RELEASE = Section(
    "release",
    (RELEASE_SCRIPT, DEST_BASE, COPY),
    "How the release image, which runs in the cluster, is made from the build image.",
)


def read_release(spot: Spot, build: Build | None) -> ReleaseSection | None:
    found = RELEASE.read(spot)
    if found is None:
        return None
    if build is not None and build.volumes and RELEASE_SCRIPT.of(found):
        found.where(RELEASE_SCRIPT).refuse(
            "release.script does not go with build.volumes", code="conflict", fix="move the lines to build.script"
        )
    return ReleaseSection(RELEASE_SCRIPT.of(found), DEST_BASE.of(found), COPY.of(found))


TEST_SCRIPT = Key("script", script, (), "run on the build image, without cache; a failing line fails the test")
TEST = Section("test", (TEST_SCRIPT,), "What `lain test` runs.")


def read_test(spot: Spot) -> TestSection | None:
    found = TEST.read(spot)
    return None if found is None else TestSection(TEST_SCRIPT.of(found))


__all__ = ["BUILD", "COPY_ITEM", "PREPARE", "RELEASE", "TEST", "Found", "read_build", "read_release", "read_test"]
