"""Images on a real Engine: builds that leave the work tree alone, pushes to a real registry, cleaning that touches only its own."""

from __future__ import annotations

import hashlib
import io
import json
import subprocess
import tarfile
from pathlib import Path

import pytest

from tests.fixtures.cli import Lain
from tests.fixtures.docker import REGISTRY_PASSWORD, REGISTRY_USER, OwnEngine, OwnRegistry, import_image

BASE = "lain-cli/base:1"
MANIFEST = f"""
appname: hello
build:
  base: {BASE}
  script:
    - mkdir out && cp src/greeting out/greeting
    - cd out && echo built >> greeting
release:
  dest_base: {BASE}
  copy: [out/greeting, {{src: src/run.sh, dest: /usr/bin/hello}}, "data/*.txt"]
test:
  script: [test -f out/greeting]
web: {{cmd: hello, port: 8000, volumes: [/data/kept], env: [MODE=test]}}
"""
FILES = {
    "lain.yaml": MANIFEST,
    "src/greeting": "hello\n",
    "src/run.sh": "#!/bin/sh\ncat /lain/app/out/greeting; env; mkdir -p /data/kept; echo $PORT > /data/kept/port; sleep 300\n",
    "data/a.txt": "a",
    "data/b.md": "b",
    "Dockerfile": "FROM this-is-the-users-own-and-does-not-exist\n",
    ".dockerignore": "ignored\n",
    ".gitignore": "ignored\n",
}


@pytest.fixture
def base(engine: OwnEngine) -> str:
    """A base image with every applet of busybox, as build scripts expect of a distribution's."""
    buffer = io.BytesIO()
    listed = subprocess.run(["busybox", "--list"], capture_output=True, text=True, check=True).stdout.split()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        content = next(path for path in (Path("/usr/bin/busybox"), Path("/bin/busybox")) if path.exists()).read_bytes()
        member = tarfile.TarInfo("bin/busybox")
        member.size, member.mode = len(content), 0o755
        archive.addfile(member, io.BytesIO(content))
        for applet in listed:
            if applet != "busybox":
                member = tarfile.TarInfo(f"bin/{applet}")
                member.type, member.linkname = tarfile.SYMTYPE, "busybox"
                archive.addfile(member)
    import_image(engine, BASE, buffer.getvalue(), "ENV PATH=/bin:/usr/bin")
    return BASE


@pytest.fixture
def app(lain: Lain, engine: OwnEngine, base: str, request: pytest.FixtureRequest) -> Lain:
    """hello's directory, in a commit of this test's own, beside a real Engine."""
    lain.environ["DOCKER_HOST"] = f"unix://{engine.socket}"
    lain.commit({**FILES, "src/which": request.node.name})
    (lain.directory / "src" / "run.sh").chmod(0o755)
    lain.commit()
    (lain.directory / "ignored").mkdir()
    (lain.directory / "ignored" / "big").write_text("x" * 100_000)
    return lain


@pytest.fixture
def phase(app: Lain, registry: OwnRegistry) -> Lain:
    """A phase with a real registry, and its password."""
    app.configure("local", registry=registry.host, registry_user=REGISTRY_USER, registry_password=REGISTRY_PASSWORD)
    return app


def digest(directory: Path) -> str:
    """Every name, mode, time and byte below ``directory``, .git included."""
    seen = hashlib.sha256()
    for path in sorted(directory.rglob("*")):
        about = path.lstat()
        seen.update(f"{path.relative_to(directory)} {about.st_mode} {about.st_mtime_ns}\n".encode())
        if path.is_file():
            seen.update(path.read_bytes())
    return seen.hexdigest()


def images(engine: OwnEngine) -> set[str]:
    return set(engine.docker("image", "ls", "--format", "{{.Repository}}:{{.Tag}}").split()) - {"<none>:<none>"}


def test_a_build_makes_three_images_and_leaves_the_tree_alone(app: Lain, engine: OwnEngine) -> None:
    bystander = engine.docker("container", "create", "--name", "bystander", BASE, "true").strip()
    tree, before = digest(app.directory), images(engine)
    done = app("build", "-o", "json")
    assert done.code == 0, done.err
    built = done.json()
    version = app("meta").out.strip()
    assert built["version"] == version and built["dirty"] is False and built["seconds"] > 0
    assert [one["reference"] for one in built["images"]] == [
        f"hello:{phase}-{version}" for phase in ("build", "release", "meta")
    ]
    assert all(one["size_bytes"] > 0 for one in built["images"])
    assert digest(app.directory) == tree
    assert images(engine) - before == {one["reference"] for one in built["images"]}
    assert bystander in engine.docker("container", "ls", "-aq", "--no-trunc"), (
        "a container that is not ours was removed"
    )
    assert len(engine.docker("container", "ls", "-aq").split()) == 1, "a build left a container behind"

    def inside(*words: str) -> str:
        return engine.docker("run", "--rm", f"hello:release-{version}", *words)

    assert inside("cat", "/lain/app/out/greeting") == "hello\nbuilt\n"
    assert inside("pwd") == "/lain/app\n"
    found = sorted(inside("find", "/lain", "/usr", "-type", "f").split())
    assert found == ["/lain/app/data/a.txt", "/lain/app/out/greeting", "/usr/bin/hello"]
    assert engine.docker("run", "--rm", f"hello:build-{version}", "ls", "-A", "/lain/app").split() == [
        ".dockerignore", ".gitignore", "Dockerfile", "data", "lain.yaml", "out", "src",
    ]  # fmt: skip
    exported = engine.docker("image", "inspect", f"hello:meta-{version}", "--format", "{{json .RootFS.Layers}}")
    assert len(json.loads(exported)) == 1
    again = app("build")
    assert again.code == 0 and "Using cache" in again.err and "MiB  in " in again.out
    engine.docker("rm", "bystander")


def test_dirty_trees_and_missing_commits_build_only_on_demand(app: Lain, engine: OwnEngine) -> None:
    version = app("meta").out.strip()
    (app.directory / "src" / "greeting").write_text("changed\n")
    assert app("build").code == 1
    done = app("build", "--dirty", "-o", "json")
    assert done.code == 0 and done.json()["version"] == f"{version}-dirty"
    assert engine.docker("run", "--rm", f"hello:release-{version}-dirty", "cat", "/lain/app/out/greeting").startswith(
        "changed"
    )
    app.configure("local", registry="127.0.0.1:5000")
    app.git("checkout", "src/greeting")
    refused = app("push")
    assert refused.code == 1 and "lain build" in refused.err, "the commit itself was not built"


def test_a_failing_script_names_command_and_code_and_leaves_nothing(app: Lain, engine: OwnEngine) -> None:
    app.commit(
        {
            "lain.yaml": f"appname: hello\nbuild: {{base: '{BASE}', script: [echo fine, echo oops >&2; exit 7]}}\nweb: {{cmd: x}}\n"
        }
    )
    done = app("build")
    assert done.code == 1 and done.out == ""
    assert "exit code 7" in done.err and "oops" in done.err and "Traceback" not in done.err
    assert engine.docker("container", "ls", "-aq") == ""


def test_a_missing_base_and_a_missing_variable(app: Lain) -> None:
    manifest = f"appname: hello\nbuild: {{base: '{BASE}', script: [x], build_arg: [TOKEN=$T]}}\nweb: {{cmd: x}}\n"
    app.commit({"lain.yaml": manifest})
    done = app("build")
    assert done.code == 1 and "build_arg takes T" in done.err and "export T=" in done.err
    app.commit({"lain.yaml": "appname: hello\nbuild: {base: '127.0.0.1:1/nope:1', script: [x]}\nweb: {cmd: x}\n"})
    done = app("build")
    assert done.code == 6 and "127.0.0.1:1/nope:1" in done.err


def test_secrets_reach_the_build_and_nothing_else(
    app: Lain, engine: OwnEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = (
        f"appname: hello\nbuild: {{base: '{BASE}', script: ['echo $TOKEN | wc -c > length'], build_arg: [TOKEN=$T]}}\n"
        f"release: {{dest_base: '{BASE}', copy: [length]}}\nweb: {{cmd: x}}\n"
    )
    app.commit({"lain.yaml": manifest})
    done = app("build", environ={"T": "sesame"})
    assert done.code == 0 and "sesame" not in done.err + done.out
    version = app("meta").out.strip()
    assert engine.docker("run", "--rm", f"hello:release-{version}", "cat", "/lain/app/length").strip() == "7"
    for kind in ("release", "meta"):
        assert "sesame" not in engine.docker("image", "history", "--no-trunc", f"hello:{kind}-{version}")
        assert "sesame" not in engine.docker("image", "inspect", f"hello:{kind}-{version}")


def test_prepare_is_reused_until_script_or_version_change(app: Lain, engine: OwnEngine) -> None:
    def prepared() -> set[str]:
        return {one for one in images(engine) if one.startswith("hello:prepare-")}

    def manifest(prepare: str) -> dict[str, str]:
        text = f"appname: hello\nbuild:\n  base: {BASE}\n  prepare: {prepare}\n  script: [cp deps/date out]\nweb: {{cmd: x}}\n"
        return {"lain.yaml": text}

    for one in prepared():
        engine.docker("rmi", one)
    app.commit(manifest("{script: [mkdir deps && date +%N > deps/date], keep: [deps]}"))
    assert app("build").code == 0
    (first,) = prepared()
    assert engine.docker("run", "--rm", first, "ls", "-A", "/lain/app").split() == ["deps"]
    app.commit({"src/greeting": "other\n"})
    done = app("build")
    assert done.code == 0 and "is here already" in done.err and prepared() == {first}
    assert app("prepare").out == first + "\n"
    app.commit(manifest("{version: 3, script: [mkdir deps && date +%N > deps/date], keep: [deps]}"))
    second = app("prepare", "-o", "json").json()["image"]
    assert second.startswith("hello:prepare-3-") and prepared() == {first, second}
    app.commit(manifest("{version: 3, script: [mkdir -p deps && date +%N >> deps/date], keep: [deps]}"))
    assert app("prepare").out.strip() == second, "a fixed version is the key, whatever the script says"
    app.commit({"lain.yaml": f"appname: hello\nbuild: {{base: '{BASE}', script: []}}\nweb: {{cmd: x}}\n"})
    assert app("prepare").code == 1


def test_prepare_images_are_shared_by_a_private_registry(phase: Lain, engine: OwnEngine, registry: OwnRegistry) -> None:
    environ = {"DOCKER_CONFIG": str(registry.directory)}
    phase("config", "save-global", "private_docker_registry", registry.host)
    prepare = "{version: 1, script: [date +%N > d], keep: [d]}"
    text = f"appname: shared\nbuild: {{base: '{BASE}', prepare: {prepare}, script: []}}\nweb: {{cmd: x}}\n"
    phase.commit({"lain.yaml": text})
    first = phase("prepare", environ=environ)
    assert first.code == 0, first.err
    made = first.out.strip()
    engine.docker("rmi", made, f"{registry.host}/{made}")
    again = phase("prepare", environ=environ)
    assert again.out.strip() == made and "from " + registry.host in again.err, again.err
    away = phase("prepare")
    assert away.out.strip() == made and "going on without it" in away.err, (
        "without a password the registry cannot be asked"
    )


def test_directories_kept_between_builds_are_in_the_image(app: Lain, engine: OwnEngine) -> None:
    text = f"""
appname: hello
build:
  base: {BASE}
  volumes: [/cache]
  build_arg: [TOKEN=$T]
  script: [echo run >> /cache/runs, wc -l < /cache/runs > count, test -n "$TOKEN"]
web: {{cmd: x}}
"""
    app.commit({"lain.yaml": text})
    tree = digest(app.directory)
    for expected in ("1", "2"):
        done = app("build", environ={"T": "sesame"})
        assert done.code == 0, done.err
        version = app("meta").out.strip()
        assert engine.docker("run", "--rm", f"hello:release-{version}", "cat", "/lain/app/count").strip() == expected
        assert (
            engine.docker("run", "--rm", f"hello:release-{version}", "wc", "-l", "/cache/runs").split()[0] == expected
        )
    assert "sesame" not in engine.docker("image", "inspect", f"hello:release-{version}")
    assert engine.docker("container", "ls", "-aq") == "" and digest(app.directory) == tree
    cleared = app("clear", "-o", "json").json()["removed"]
    assert [one for one in cleared if one.startswith("lain-cache-hello-")]


def test_a_dockerfile_of_ones_own(app: Lain, engine: OwnEngine) -> None:
    files = {
        "lain.yaml": "appname: hello\nbuild: {dockerfile: docker/Dockerfile, target: run, args: {WORD: hi}}\nweb: {cmd: x}\n",
        "docker/Dockerfile": f"FROM {BASE} AS run\nARG WORD\nCOPY data /data\nRUN echo $WORD > /word\nFROM {BASE}\n",
    }
    app.commit(files)
    tree = digest(app.directory)
    done = app("build")
    assert done.code == 0, done.err
    version = app("meta").out.strip()
    assert engine.docker("run", "--rm", f"hello:release-{version}", "cat", "/word", "/data/a.txt") == "hi\na"
    assert digest(app.directory) == tree


def test_an_image_only_app_is_tagged(app: Lain, engine: OwnEngine) -> None:
    app.commit({"lain.yaml": f"appname: hello\nimage: {BASE}\nweb: {{cmd: x, port: 80}}\n"})
    done = app("build", "-o", "json")
    assert done.code == 0 and [one["phase"] for one in done.json()["images"]] == ["release", "meta"]
    version = app("meta").out.strip()
    same = {
        engine.docker("image", "inspect", name, "--format", "{{.Id}}") for name in (BASE, f"hello:release-{version}")
    }
    assert len(same) == 1


def test_tests_decide_the_exit_code(app: Lain) -> None:
    assert app("test").code == 0
    app.commit({"lain.yaml": MANIFEST.replace("test -f out/greeting", "echo bad; exit 3")})
    done = app("test")
    assert done.code == 1 and "the tests failed" in done.err and "exit 3" in done.err


# --- push, tag, check, sync, rmi ---


def test_push_says_digests_and_the_registry_has_them(phase: Lain, engine: OwnEngine, registry: OwnRegistry) -> None:
    assert phase("push").code == 1
    assert phase("build").code == 0
    version = phase("meta").out.strip()
    done = phase("push", "local", "-o", "json")
    assert done.code == 0, done.err
    pushed = done.json()
    assert pushed["meta_version"] == version and {one["phase"] for one in pushed["images"]} == {"release", "meta"}
    assert all(one["digest"].startswith("sha256:") for one in pushed["images"])
    assert REGISTRY_PASSWORD not in done.err + done.out
    assert not (phase.home.parent / ".docker").exists(), "a password was left in the user's docker configuration"
    shown = phase("tag", "local")
    assert shown.out.split() == [f"{registry.host}/hello:{kind}-{version}" for kind in ("release", "meta")]


def test_a_wrong_password_and_a_dead_registry_are_told_apart(phase: Lain) -> None:
    assert phase("build").code == 0
    phase.configure("wrong", registry=json.loads((phase.home / "lain.conf.yaml").read_text())["local"]["registry"],
                    registry_user=REGISTRY_USER, registry_password="not it")  # fmt: skip
    done = phase("push", "wrong")
    assert done.code == 1 and "the registry refuses" in done.err and "registry_password" in done.err
    phase.configure("dead", registry="127.0.0.1:1")
    done = phase("push", "dead")
    assert done.code == 6 and "127.0.0.1:1" in done.err


def test_sync_copies_a_version(phase: Lain, registry: OwnRegistry, engine: OwnEngine) -> None:
    assert phase("build").code == 0 and phase("push").code == 0
    version = phase("meta").out.strip()
    other = OwnRegistry(engine, registry.directory.parent / f"{registry.directory.name}-other")
    other.directory.mkdir()
    other.start()
    try:
        phase.configure("prod", registry=other.host, registry_user=REGISTRY_USER, registry_password=REGISTRY_PASSWORD)
        done = phase("sync", "local", "prod", "hello", version)
        assert done.code == 0, done.err
        for kind in ("meta", "release"):
            assert (
                other.directory / f"data/docker/registry/v2/repositories/hello/_manifests/tags/{kind}-{version}"
            ).is_dir()
    finally:
        other.stop()
        subprocess.run(["rm", "-r", str(other.directory)], check=True)


def test_rmi_keeps_what_a_container_runs_from(phase: Lain, engine: OwnEngine, registry: OwnRegistry) -> None:
    assert phase("build").code == 0 and phase("tag").code == 0
    old = phase("meta").out.strip()
    engine.docker("run", "-d", "--name", "user", f"{registry.host}/hello:release-{old}", "sleep", "300")
    phase.commit({"src/greeting": "new\n"}, at=1500000100)
    assert phase("build").code == 0 and phase("tag").code == 0
    new = phase("meta").out.strip()
    done = phase("rmi", "local", "-o", "json").json()
    remote = f"{registry.host}/hello"
    assert {f"{remote}:release-{new}", f"{remote}:meta-{new}"} <= set(done["removed"])
    assert set(done["kept"]) == {f"{remote}:release-{old}", f"{remote}:meta-{old}"}
    assert f"hello:release-{new}" in images(engine)


def test_clear_removes_unversioned_images_of_this_app_only(app: Lain, engine: OwnEngine) -> None:
    engine.docker("container", "create", "--name", "elsewhere", BASE, "true")
    for tag in ("hello:build", "hello:release", "hello:meta", "other:build"):
        engine.docker("tag", BASE, tag)
    before = images(engine)
    done = app("clear", "--without", "meta,cache", "-o", "json").json()
    assert done["removed"] == ["hello:build", "hello:release"]
    assert before - images(engine) == {"hello:build", "hello:release"}
    assert engine.docker("container", "ls", "-aq", "--filter", "name=elsewhere")
    assert app("clear", "--without", "nonsense").code == 2
    engine.docker("rmi", "other:build", "hello:meta")


# --- dev ---


def test_dev_runs_a_proc_as_the_cluster_would(app: Lain, engine: OwnEngine) -> None:
    assert app("dev", "run").code == 1
    assert app("build").code == 0
    volumes = engine.docker("volume", "ls", "-q")
    done = app("dev", "run", "-o", "json")
    assert done.code == 0, done.err
    assert done.json()["container"] == "hello.web.web" and set(done.json()["ports"]) == {"8000"}
    logs = engine.docker("logs", "hello.web.web")
    assert (
        "MODE=test" in logs
        and "LAIN_APPNAME=hello" in logs
        and "LAIN_DOMAIN=lain.localhost" in logs
        and "PORT=8000" in logs
    )
    assert engine.docker("exec", "hello.web.web", "cat", "/data/kept/port").strip() == "8000"
    assert app("dev", "run").code == 1
    assert app("dev", "stop").code == 0 and app("dev", "rm").code == 0
    assert engine.docker("container", "ls", "-aq") == "" and engine.docker("volume", "ls", "-q") == volumes
    assert app("dev", "rm").code == 1 and app("dev", "run", "nope").code == 1
