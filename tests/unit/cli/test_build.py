"""From a manifest to Dockerfiles and argument vectors: pure, so tested as tables."""

from __future__ import annotations

import json
import re

import pytest

from lain_cli import build
from lain_cli.images import APP_LABEL
from lain_sdk.manifest import CopyItem, Manifest, load
from lain_shared.errors import Invalid

VERSION = "1500000000-0123456789abcdef0123456789abcdef01234567"


def manifest(text: str) -> Manifest:
    return load("appname: hello\n" + text + "\nweb: {cmd: hello}\n")


def section(text: str) -> tuple[Manifest, build.Build]:  # type: ignore[name-defined]
    read = manifest(text)
    assert read.build is not None
    return read, read.build


def scripts(step: build.DockerBuild) -> list[str]:
    """What the step's ``RUN`` lines run."""
    lines = (step.dockerfile or "").splitlines()
    return [json.loads(line.removeprefix("RUN "))[2] for line in lines if line.startswith("RUN ")]


def test_the_build_image_is_the_tree_and_the_script_line_by_line() -> None:
    _, part = section("build: {base: 'b:1', script: [make all, 'echo \"$X\" && cd /tmp']}")
    step = build.build_step("hello", part, VERSION, part.base, ())
    assert step.dockerfile == (
        "FROM b:1\nWORKDIR /lain/app/\nCOPY app/ /lain/app/\n"
        'RUN ["/bin/sh", "-c", "make all"]\n'
        'RUN ["/bin/sh", "-c", "echo \\"$X\\" && cd /tmp"]\n'
    )
    assert step.tags == (f"hello:build-{VERSION}",) and step.tree and step.bases == ("b:1",)
    assert step.argv() == [
        "build", "--rm", "--force-rm", "--tag", f"hello:build-{VERSION}",
        "--label", "lain.app=hello", "--label", "lain.phase=build", "--label", f"lain.meta_version={VERSION}",
        "--file", "Dockerfile", "-",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "line",
    [
        "a\nb\n",
        "cat <<EOF\nx\nEOF",
        "--mount=x true",
        "[ -f a ]",
        "printf '\\\\n' \\",
        "echo 'é \" $HOME'",
        "# only a comment",
    ],
)
def test_any_script_line_survives_as_it_was_written(line: str) -> None:
    text = build.run_line(line)
    assert "\n" not in text and json.loads(text.removeprefix("RUN ")) == ["/bin/sh", "-c", line]


def test_without_a_version_the_tag_is_the_phase() -> None:
    _, part = section("build: {base: b, script: []}")
    assert build.build_step("hello", part, None, "b", ()).tags == ("hello:build",)


# --- build arguments ---


def test_a_missing_variable_is_named() -> None:
    _, part = section("build: {base: b, script: [], build_arg: [TOKEN=$T, B=$T2, C=x]}")
    with pytest.raises(Invalid) as told:
        build.build_args(build.arguments_of(part), {})
    assert "T, T2" in told.value.message and told.value.evidence == {"missing": ["T", "T2"]}


def test_a_value_from_the_environment_is_in_no_argument() -> None:
    _, part = section("build: {base: b, script: [x], build_arg: [TOKEN=$T, 'C=a b=c', 'D=${T}']}")
    args = build.build_args(build.arguments_of(part), {"T": "sesame"})
    step = build.build_step("hello", part, VERSION, "b", args)
    assert "sesame" not in " ".join(step.argv()) and "sesame" not in (step.dockerfile or "")
    assert step.environ() == {"TOKEN": "sesame", "D": "sesame"}
    words = step.argv()
    given = [words[index + 1] for index, word in enumerate(words) if word == "--build-arg"]
    assert given == ["TOKEN", "C=a b=c", "D"]
    assert re.findall(r"^ARG (.*)$", step.dockerfile or "", re.MULTILINE) == ["TOKEN", "C", "D"]
    assert "sesame" not in repr(args)


def test_dockers_own_variables_cannot_be_overridden_by_a_build_argument() -> None:
    with pytest.raises(Invalid, match="DOCKER_HOST"):
        build.build_args((("DOCKER_HOST", "$X"),), {"X": "tcp://elsewhere"})
    assert build.build_args((("PATH", "/opt/bin"),), {})[0].source is None


SECRET = "build: {base: b, script: [x], build_arg: [TOKEN=$T, C=x]"
SLIM = "\nrelease: {dest_base: slim, copy: [x]}"


@pytest.mark.parametrize(
    ("text", "readable"),
    [
        (SECRET + "}", True),
        (SECRET + "}\nrelease: {script: [strip x]}", True),
        (SECRET + "}" + SLIM, False),
        (SECRET + ", volumes: [/cache]}", False),
        (SECRET + ", volumes: [/cache], prepare: {script: [y]}}", True),
        (SECRET + ", prepare: {script: [y]}}" + SLIM, False),
        ("build: {base: b, script: [x], build_arg: [C=x]}", False),
        ("build: {base: b, script: [x]}", False),
    ],
)
def test_a_value_from_the_environment_never_stands_in_a_released_image(text: str, readable: bool) -> None:
    read, part = section(text)
    args = build.build_args(build.arguments_of(part), {"T": "sesame"})
    if not readable:
        build.refuse_readable(read, args)
        return
    with pytest.raises(Invalid) as told:
        build.refuse_readable(read, args)
    assert told.value.message == "TOKEN comes from the environment and would be readable in the released image"
    assert "add release.dest_base" in told.value.next and "sesame" not in str(told.value.to_document())


def test_what_the_history_of_a_dockerfiles_image_shows_is_refused() -> None:
    read, part = section("build: {dockerfile: Dockerfile, args: {TOKEN: $T, B: $T2, C: x}}")
    args = build.build_args(build.arguments_of(part), {"T": "sesame", "T2": ""})
    build.refuse_readable(read, args)  # its last stage may not use them
    build.refuse_shown('/bin/sh -c #(nop)  ARG TOKEN\n|2 B= C=x /bin/sh -c make TOKEN=other\nCMD ["sesame"]', args)
    with pytest.raises(Invalid, match="TOKEN comes from the environment") as told:
        build.refuse_shown("|2 C=x TOKEN=sesame /bin/sh -c make", args)
    assert "sesame" not in str(told.value.to_document())


# --- prepare ---


def test_the_old_list_form_of_prepare_cleans_last() -> None:
    _, part = section("build: {base: b, script: [], prepare: [one, two]}")
    assert part.prepare is not None and part.prepare.version is None and part.prepare.keep == ()
    (script,) = scripts(build.prepare_step("hello", part, part.prepare, "prepare-1-2", ()))
    first, second, clean = script.split(" && (\n")
    assert first == "(\none\n)" and second == "two\n)" and "rm -rf" in clean


def test_prepare_keeps_exactly_what_it_says() -> None:
    _, part = section(
        "build: {base: b, script: [], prepare: {version: 0, script: [one], keep: [node_modules, bundle]}}"
    )
    assert part.prepare is not None and part.prepare.version == "0"
    (script,) = scripts(build.prepare_step("hello", part, part.prepare, "prepare-0-2", ()))
    assert "'node_modules'|'bundle'" in script


def test_prepare_update_starts_from_the_old_image_without_cache() -> None:
    _, part = section("build: {base: b, script: [], prepare: {script: [one]}}")
    assert part.prepare is not None
    step = build.prepare_update_step("hello", part.prepare, "hello:prepare-1", "prepare-2", ())
    assert (step.dockerfile or "").startswith("FROM hello:prepare-1\n") and "--no-cache" in step.argv()
    assert step.tags == ("hello:prepare-2",)


# --- release ---


def test_without_release_the_build_image_is_it() -> None:
    assert build.release_step(manifest("build: {base: b, script: []}"), VERSION) is None


def test_a_release_script_alone_runs_on_the_build_image() -> None:
    step = build.release_step(manifest("build: {base: b, script: []}\nrelease: {script: [strip x]}"), VERSION)
    assert step is not None
    assert (step.dockerfile or "").startswith(f"FROM hello:build-{VERSION} AS lain-build\n") and scripts(step) == [
        "strip x"
    ]
    assert "COPY" not in (step.dockerfile or "")


def test_a_release_on_another_base_holds_only_what_is_copied() -> None:
    step = build.release_step(
        manifest(
            "build: {base: b, script: []}\nrelease: {dest_base: slim, copy: [hi, {src: hello, dest: /usr/bin/hello}]}"
        ),
        VERSION,
    )
    assert step is not None and step.bases == ("slim",)
    text = step.dockerfile or ""
    stage, final = text.split("FROM slim\n")
    assert scripts(step) == [
        "mkdir -p /lain/.release/0 && cp -a -- /lain/app/hi /lain/.release/0/hi",
        "mkdir -p /lain/.release/1 && cp -a -- /lain/app/hello /lain/.release/1/hello",
    ]
    assert final == (
        'COPY --from=lain-build ["/lain/.release/0/", "/lain/app/"]\n'
        'COPY --from=lain-build ["/lain/.release/1/", "/usr/bin/"]\n'
        "WORKDIR /lain/app/\n"
    )
    assert "COPY" not in stage


@pytest.mark.parametrize(
    ("item", "gathered", "placed"),
    [
        (CopyItem("bin", "/opt/shop"), "cp -a -- /lain/app/bin /lain/.release/0/shop", "/opt/"),
        (CopyItem("bin", "/opt/shop/"), "cp -a -- /lain/app/bin /lain/.release/0", "/opt/shop/"),
        (CopyItem("a b", "c d"), "cp -a -- '/lain/app/a b' '/lain/.release/0/c d'", "/lain/app/"),
        (CopyItem("/etc/x", "/etc/x"), "cp -a -- /etc/x /lain/.release/0/x", "/etc/"),
        (CopyItem("*.jar", "/jars"), "cp -a -- /lain/app/*.jar /lain/.release/0", "/jars/"),
        (CopyItem("$HOME/x", "/x"), "cp -a -- $HOME/x /lain/.release/0", "/x/"),
        (CopyItem("it's", "x"), "cp -a -- '/lain/app/it'\"'\"'s' /lain/.release/0/x", "/lain/app/"),
        (CopyItem("x;rm*", "/y"), "cp -a -- /lain/app/x\\;rm* /lain/.release/0", "/y/"),
        (CopyItem("../up", "/y/up"), "cp -a -- /lain/up /lain/.release/0/up", "/y/"),
    ],
)
def test_copies(item: CopyItem, gathered: str, placed: str) -> None:
    (gather,), (copy,) = build.release_copies([item])
    assert json.loads(gather.removeprefix("RUN "))[2].endswith(gathered)
    assert json.loads(copy.removeprefix("COPY --from=lain-build "))[1] == placed


def test_a_pattern_without_dest_keeps_each_path() -> None:
    (gather,), (copy,) = build.release_copies([CopyItem("dist/*.js", "dist/*.js")])
    assert "for f in /lain/app/dist/*.js" in gather and json.loads(copy.split("=lain-build ")[1])[1] == "/"


# --- the others ---


def test_tests_never_come_from_the_cache() -> None:
    step = build.test_step(manifest("build: {base: b, script: []}\ntest: {script: [pytest]}"), VERSION)
    assert "--no-cache" in step.argv() and scripts(step) == ["pytest"] and step.tags == (f"hello:test-{VERSION}",)


def test_the_meta_image_is_one_file_on_an_empty_base() -> None:
    step = build.meta_step("hello", VERSION, b"appname: hello\n")
    assert step.dockerfile == "FROM scratch\nCOPY lain.yaml /lain.yaml\n" and not step.tree
    assert step.files == {"lain.yaml": b"appname: hello\n"} and step.labels[APP_LABEL] == "hello"


def test_a_dockerfile_of_the_repository_is_built_by_dockers_own_rules() -> None:
    read, part = section("build: {dockerfile: docker/Dockerfile, context: ., target: run, args: {A: '1', B: $B}}")
    args = build.build_args(build.arguments_of(part), {"B": "sesame"})
    step = build.dockerfile_step("hello", part, VERSION, "/repo", args)
    words = step.argv()
    assert words[-3:] == ["--file", "/repo/docker/Dockerfile", "/repo"] and step.dockerfile is None
    assert words[words.index("--target") + 1] == "run"
    assert "--build-arg A=1" in " ".join(words) and "sesame" not in " ".join(words)
    assert build.release_step(read, VERSION) is None
