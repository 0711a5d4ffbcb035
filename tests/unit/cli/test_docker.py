"""What a failed docker command means: the words of two builders and of the Engine, as kinds a caller can act on."""

from __future__ import annotations

import json
import stat
from pathlib import Path
from typing import IO

import pytest

from lain_cli.docker import BuildFailed, Docker, failure
from lain_cli.failures import Exit, exit_code
from lain_shared.errors import Denied, LainError, NotFound, Unavailable
from tests.fixtures.cli import Lain, Stream

CASES = [
    ("Cannot connect to the Docker daemon at unix:///x. Is the docker daemon running?", Unavailable, "docker_down"),
    ("error during connect: Get http://x: EOF", Unavailable, "docker_down"),
    ("permission denied while trying to connect to the Docker daemon socket", Denied, "docker_denied"),
    ("failed to register layer: write /x: no space left on device", LainError, "disk_full"),
    ("The command '/bin/sh -c make all' returned a non-zero code: 2", BuildFailed, "build_failed"),
    ('process "/bin/sh -c make all" did not complete successfully: exit code: 2', BuildFailed, "build_failed"),
    ("manifest for b:1 not found: manifest unknown: manifest unknown", NotFound, "image_missing"),
    ("pull access denied for nope, repository does not exist or may require 'docker login'", NotFound, "image_missing"),
    ("unauthorized: authentication required", Denied, "registry_denied"),
    ("no basic auth credentials", Denied, "registry_denied"),
    ("Get https://r:5000/v2/: dial tcp 1.2.3.4:5000: connect: connection refused", Unavailable, "registry_unreachable"),
    ("Get https://r:5000/v2/: x509: certificate signed by unknown authority", Unavailable, "registry_unreachable"),
    (
        'Get "http://r:5000/v2/": read tcp 1.2.3.4:1->1.2.3.4:2: read: connection reset by peer',
        Unavailable,
        "registry_unreachable",
    ),
    ("dial tcp: lookup registry-1.docker.io: no such host", Unavailable, "registry_unreachable"),
    ("COPY failed: no such file", BuildFailed, "build_failed"),
]


@pytest.mark.parametrize(("said", "kind", "code"), CASES)
def test_what_docker_says_is_understood(said: str, kind: type[LainError], code: str) -> None:
    told = failure(["build", "-"], 1, ["Step 1/2 : FROM b", said], what="build image")
    assert type(told) is kind and told.error_code == code
    assert (told.message and told.next) or code == "build_failed"


def test_a_failed_step_names_command_and_code() -> None:
    told = failure(["build", "-"], 1, ["oops", "The command '/bin/sh -c make all' returned a non-zero code: 2"])
    assert "exit code 2" in told.message and told.why == "command: make all" and "oops" in told.evidence["last lines"]


def test_docker_down_is_unreachable_and_named(lain: Lain) -> None:
    lain.commit({"lain.yaml": "appname: hello\nbuild: {base: b, script: []}\nweb: {cmd: hello}\n"})
    done = lain("build")
    assert done.code == Exit.UNREACHABLE and "Docker does not answer" in done.err and "lainctl doctor" in done.err


def test_docker_missing_is_one_clear_line(lain: Lain, tmp_path: Path) -> None:
    with pytest.raises(Unavailable) as told:
        Docker({"PATH": str(tmp_path)}, Stream()).available()
    # The search path of the child decides on some platforms, the parent's on others; both end in an understood failure.
    assert told.value.error_code in ("docker_missing", "docker_down") and exit_code(told.value) == Exit.UNREACHABLE


def fake_docker(directory: Path, script: str) -> dict[str, str]:
    """An environment in which ``docker`` is this shell script."""
    directory.mkdir()
    path = directory / "docker"
    path.write_text("#!/bin/sh\n" + script)
    path.chmod(0o755)
    return {"PATH": f"{directory}:/usr/bin:/bin", "HOME": str(directory)}


def test_a_password_goes_by_standard_input_into_a_private_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = tmp_path / "log"
    environ = fake_docker(
        tmp_path / "bin",
        f'echo "$@" >> {log}; [ "$1" = login ] && cat >> {log}; echo "$DOCKER_CONFIG" > {log}.dir; true\n',
    )
    monkeypatch.setenv("PATH", environ["PATH"])
    own = tmp_path / "bin" / ".docker"
    own.mkdir()
    (own / "config.json").write_text(json.dumps({"credsStore": "keychain", "proxies": {"default": {}}}))
    (own / "contexts").mkdir()
    with Docker(environ, Stream()).logged_in("r:5000", "push", "sesame") as docker:
        directory = Path(Path(f"{log}.dir").read_text().strip())
        assert stat.S_IMODE(directory.stat().st_mode) == 0o700
        assert json.loads((directory / "config.json").read_text()) == {"proxies": {"default": {}}}
        assert (directory / "contexts").resolve() == own / "contexts"
        docker.ask("image", "push", "r:5000/x")
    assert not directory.exists()
    first, password = log.read_text().splitlines()[0], log.read_text()
    assert first == "login --username push --password-stdin r:5000" and "sesame" in password


def test_the_classic_builders_chatter_is_shortened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    noise = (
        "DEPRECATED: The legacy builder is deprecated\\nSending build context to Docker daemon  2kB\\n"
        'Step 1/2 : RUN ["/bin/sh", "-c", "make all"]\\n ---> Running in 0123456789ab\\n ---> 0123456789ab\\nhello\\n'
    )
    environ = fake_docker(tmp_path / "bin", f"[ \"$1\" = buildx ] && exit 1; cat > /dev/null; printf '{noise}'\n")
    monkeypatch.setenv("PATH", environ["PATH"])
    log = Stream()

    def feed(pipe: IO[bytes]) -> None:
        pipe.write(b"x" * 100_000)

    Docker(environ, log).stream(["build", "-"], feed=feed)
    assert log.text() == "Step 1/2 : RUN make all\nhello\n"


def test_a_context_that_cannot_be_read_is_the_error_not_dockers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    environ = fake_docker(tmp_path / "bin", "cat > /dev/null; exit 1\n")
    monkeypatch.setenv("PATH", environ["PATH"])

    def feed(_: object) -> None:
        raise LainError("x cannot be read", code="context_unreadable")

    with pytest.raises(LainError, match="x cannot be read"):
        Docker(environ, Stream()).stream(["build", "-"], feed=feed)


def test_docker_that_ends_early_breaks_no_pipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    environ = fake_docker(tmp_path / "bin", "echo 'no space left on device'; exit 1\n")
    monkeypatch.setenv("PATH", environ["PATH"])

    def feed(pipe: object) -> None:
        for _ in range(1000):
            pipe.write(b"x" * 10_000)  # type: ignore[attr-defined]

    with pytest.raises(LainError) as told:
        Docker(environ, Stream()).stream(["build", "-"], feed=feed)
    assert told.value.error_code == "disk_full"
