"""The docker command line, driven by argument vectors: no shell, no secret in an argument, its failures told as ``LainError``.

Builds go through BuildKit where the installation has it and through the classic builder where not; both read the same Dockerfiles
here. Everything docker says goes to stderr as it comes; its last lines become the evidence of a failure.
"""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import subprocess
import tempfile
import termios
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, TextIO

from lain_shared.errors import Denied, LainError, NotFound, Unavailable

TAIL_LINES = 30
_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\r")
_NOISE = re.compile(
    r"(DEPRECATED: The legacy builder|\s+BuildKit is currently disabled|\s+environment-variable\.|\s+Install the buildx component"
    r"|\s+BuildKit; see|Sending build context to Docker daemon"
    r"| ---> ?(?:[0-9a-f]{12}\Z|\Z|Running in )|Removing intermediate container |[0-9a-f]{12}: (?:Preparing|Waiting)"
    r"|Step \d+/\d+ : LABEL lain\.)"
)
_STEP = re.compile(r"Step (?P<count>\d+/\d+) : RUN (?P<words>\[.*\])\Z", re.DOTALL)
_STEP_FAILED = re.compile(
    r"(?:command|process) [\"']?(?P<command>.+?)[\"']? "
    r"(?:returned a non-zero code|did not complete successfully: exit code):? (?P<code>\d+)",
    re.DOTALL,
)
_MISSING = (
    r"manifest unknown|manifest for .* not found|pull access denied|repository does not exist|no such image|: not found"
)
_UNREACHABLE = (
    r"connection refused|connection reset|no such host|i/o timeout|tls handshake|x509:|network is unreachable"
    r"|http response to https|eof$"
)


class BuildFailed(LainError):
    """A line of the manifest's script, or of a Dockerfile, ended badly."""

    code = "build_failed"


class Docker:
    """One docker client. ``log``: where progress goes; ``config_dir``: another ``DOCKER_CONFIG`` than the user's."""

    def __init__(self, environ: Mapping[str, str], log: TextIO, config_dir: Path | None = None) -> None:
        self._environ = dict(environ)
        self._log = log
        if config_dir is not None:
            self._environ["DOCKER_CONFIG"] = str(config_dir)
        self._buildkit: bool | None = None
        self._hidden = False

    # --- asking ---

    def ask(self, *arguments: str, stdin: bytes | None = None, missing_ok: bool = False) -> str | None:
        """Output of one docker command. With ``missing_ok``, None when what was named does not exist."""
        done = self._run(arguments, stdin)
        if done.returncode == 0:
            return done.stdout.decode(errors="replace")
        said = done.stderr.decode(errors="replace") + done.stdout.decode(errors="replace")
        if (
            missing_ok
            and re.search(r"[Nn]o such (image|container|object|volume)|not found", said)
            and "connect" not in said
        ):
            return None
        raise failure(arguments, done.returncode, said.splitlines())

    def inspect(self, reference: str, kind: str = "image") -> dict[str, Any] | None:
        """``docker <kind> inspect``; None when it does not exist."""
        found = self.ask(kind, "inspect", reference, missing_ok=True)
        if found is None:
            return None
        documents = json.loads(found)
        return documents[0] if documents else None

    def tags(self, repository: str) -> tuple[str, ...]:
        """Local tags of ``repository``."""
        listed = self.ask("image", "ls", "--format", "{{.Tag}}", repository) or ""
        return tuple(sorted(tag for tag in listed.split() if tag != "<none>"))

    def containers(self, *, all: bool = True, labels: Sequence[str] = ()) -> tuple[dict[str, Any], ...]:
        """Containers, inspected."""
        filters = [word for label in labels for word in ("--filter", f"label={label}")]
        ids = (
            self.ask("container", "ls", "--quiet", "--no-trunc", *(["--all"] if all else []), *filters) or ""
        ).split()
        if not ids:
            return ()
        return tuple(json.loads(self.ask("container", "inspect", *ids) or "[]"))

    def available(self) -> str:
        """Version of the Engine; ``Unavailable`` when none answers."""
        return (self.ask("version", "--format", "{{.Server.Version}}") or "").strip()

    # --- doing ---

    def stream(
        self,
        arguments: Sequence[str],
        *,
        feed: Callable[[IO[bytes]], None] | None = None,
        extra_environ: Mapping[str, str] | None = None,
        what: str = "",
    ) -> None:
        """Run a long command, showing what it says. ``feed`` writes its standard input (from a thread). Raises on failure."""
        builder = self._builder(arguments)
        terminal = self._log.isatty() and not builder  # the classic builder speaks in lines; we make them shorter
        output_of_us, output_of_it = pty.openpty() if terminal else os.pipe()
        if terminal:
            _like_terminal(output_of_it, self._log)
        process = _start(
            ["docker", *arguments],
            stdin=subprocess.PIPE if feed else subprocess.DEVNULL,
            stdout=output_of_it,
            stderr=output_of_it,
            env={**self._environ, **(extra_environ or {}), **builder},
        )
        os.close(output_of_it)
        feeder = _Feeder(process.stdin, feed) if feed and process.stdin else None
        tail: deque[str] = deque(maxlen=TAIL_LINES)
        try:
            self._copy(output_of_us, tail, raw=terminal)
            code = process.wait()
        except BaseException:
            process.terminate()
            process.wait()
            raise
        finally:
            os.close(output_of_us)
            if feeder:
                feeder.join()
        if feeder and feeder.error is not None and not isinstance(feeder.error, BrokenPipeError):
            raise feeder.error
        if code != 0:
            raise failure(arguments, code, list(tail), what=what)

    def tag(self, source: str, target: str) -> None:
        self.ask("image", "tag", source, target)

    def push(self, reference: str) -> None:
        self.stream(["image", "push", reference], what=reference)

    def pull(self, reference: str) -> None:
        self.stream(["image", "pull", reference], what=reference)

    def ensure(self, reference: str, *, pull: bool = False) -> None:
        """Have an image here: pulled when it is missing, or always with ``pull``."""
        if pull or (reference != "scratch" and self.inspect(reference) is None):
            self.pull(reference)

    @contextmanager
    def logged_in(self, registry: str, user: str, password: str) -> Iterator[Docker]:
        """A client that knows these credentials, in a private configuration directory which is gone afterwards.

        The user's own docker configuration (contexts, proxies, other registries) goes on to hold; it is not changed.
        """
        if not user:
            yield self
            return
        with tempfile.TemporaryDirectory(prefix="lain-docker-") as text:
            directory = Path(text)
            own = Path(self._environ.get("DOCKER_CONFIG") or Path(self._environ.get("HOME", "/root")) / ".docker")
            _private_config(own, directory)
            client = Docker(self._environ, self._log, directory)
            client.ask("login", "--username", user, "--password-stdin", registry, stdin=password.encode())
            yield client

    def interactive(self, arguments: Sequence[str]) -> int:
        """Hand the terminal to docker; its exit code."""
        return _start(["docker", *arguments], env=self._environ).wait()

    # --- inside ---

    def _run(self, arguments: Sequence[str], stdin: bytes | None) -> subprocess.CompletedProcess[bytes]:
        try:
            return subprocess.run(
                ["docker", *arguments], input=stdin, capture_output=True, check=False, env=self._environ
            )
        except FileNotFoundError as error:
            raise _no_docker() from error

    def _builder(self, arguments: Sequence[str]) -> dict[str, str]:
        if arguments[0] != "build" or "DOCKER_BUILDKIT" in self._environ:
            return {}
        if self._buildkit is None:
            self._buildkit = self._run(["buildx", "version"], None).returncode == 0
        return {} if self._buildkit else {"DOCKER_BUILDKIT": "0"}

    def _copy(self, source: int, tail: deque[str], *, raw: bool) -> None:
        """Everything from ``source`` to the log; whole lines to ``tail``. A pty ends with an I/O error: that is its end of file."""
        pending = b""
        while True:
            try:
                chunk = os.read(source, 1 << 14)
            except OSError:
                chunk = b""
            if not chunk:
                break
            if raw:
                self._log.write(chunk.decode(errors="replace"))
                self._log.flush()
            *lines, pending = (pending + chunk).split(b"\n")
            for line in lines:
                self._line(line, tail, show=not raw)
        if pending:
            self._line(pending, tail, show=not raw)

    def _line(self, line: bytes, tail: deque[str], *, show: bool) -> None:
        text = _ESCAPES.sub("", line.decode(errors="replace")).rstrip()
        if text == " ---> Using cache" and self._hidden:
            return
        self._hidden = bool(_NOISE.match(text))
        if not text or self._hidden:
            return
        text = _shorter(text)
        tail.append(text)
        if show:
            self._log.write(text + "\n")
            self._log.flush()


class _Feeder(threading.Thread):
    """Writes a build context while we read what docker says of it."""

    def __init__(self, target: IO[bytes], feed: Callable[[IO[bytes]], None]) -> None:
        super().__init__(daemon=True)
        self.error: BaseException | None = None
        self._target, self._feed = target, feed
        self.start()

    def run(self) -> None:
        try:
            self._feed(self._target)
        except BaseException as error:  # handed to the caller's thread, which raises it
            self.error = error
        finally:
            with suppress(BrokenPipeError):
                self._target.close()


def failure(arguments: Sequence[str], code: int, lines: Sequence[str], *, what: str = "") -> LainError:
    """What a failed docker command means (pure). ``lines``: the last ones it printed."""
    said = "\n".join(lines)
    low = said.lower()
    tail = [line for line in lines if line.strip() and not _NOISE.match(line)][-12:]
    subject = what or next((word for word in reversed(arguments) if not word.startswith("-")), "docker")
    evidence = {"docker said": tail}
    if re.search(r"cannot connect to the docker daemon|error during connect|is the docker daemon running", low):
        return Unavailable(
            "Docker does not answer", why=tail[-1] if tail else "", code="docker_down",
            next="start Docker and try again; lainctl doctor looks closer",
        )  # fmt: skip
    if "permission denied while trying to connect" in low:
        return Denied(
            "you may not use Docker", why=tail[-1] if tail else "", code="docker_denied",
            next="add yourself to the group docker and log in again, or use sudo",
        )  # fmt: skip
    if "no space left on device" in low:
        return LainError(
            "the disk is full", evidence=evidence, code="disk_full",
            next="docker system df shows what fills it; lain rmi removes local copies of this app's images",
        )  # fmt: skip
    if found := _STEP_FAILED.search(said):
        return BuildFailed(
            f"a build step ended with exit code {found['code']}",
            why=f"command: {_readable(found['command'])}", evidence={"last lines": tail},
            next="correct it and run lain build again; finished steps are cached",
        )  # fmt: skip
    if (
        re.search(r"unauthorized|authentication required|no basic auth credentials|denied: ", low)
        and "pull access denied" not in low
    ):
        return Denied(
            f"the registry refuses {subject}", why=tail[-1] if tail else "", code="registry_denied",
            next="lain config show: are registry_user and registry_password of this phase right?",
        )  # fmt: skip
    if re.search(_MISSING, low):
        return NotFound(
            f"there is no image {subject}" if what else "an image was not found", why=tail[-1] if tail else "",
            evidence=evidence, code="image_missing", next="is its name right, and has it been pushed?",
        )  # fmt: skip
    if re.search(_UNREACHABLE, low):
        away = f"a registry cannot be reached for {subject}"
        away = f"the registry {subject} cannot be reached" if arguments[0] == "login" else away
        return Unavailable(
            away, why=tail[-1] if tail else "", evidence=evidence,
            code="registry_unreachable", next="is it up, and does this machine's Docker trust it? lainctl doctor",
        )  # fmt: skip
    if arguments[0] == "build":
        return BuildFailed(
            "the build failed", why=tail[-1] if tail else f"docker exited with {code}", evidence=evidence
        )
    return LainError(
        f"docker {arguments[0]} failed",
        why=tail[-1] if tail else f"exit code {code}",
        evidence=evidence,
        code="docker_failed",
    )


def _like_terminal(descriptor: int, terminal: TextIO) -> None:
    """Give a pseudo-terminal the size of ours, and have it leave line ends alone: ours turns them itself."""
    with suppress(OSError, ValueError):
        fcntl.ioctl(descriptor, termios.TIOCSWINSZ, fcntl.ioctl(terminal.fileno(), termios.TIOCGWINSZ, b"\0" * 8))
    modes = termios.tcgetattr(descriptor)
    modes[1] &= ~termios.OPOST
    termios.tcsetattr(descriptor, termios.TCSANOW, modes)


def _shorter(line: str) -> str:
    """A classic builder's step, its script as it was written: ``Step 3/4: make all``."""
    if not (found := _STEP.match(line)):
        return line
    try:
        words = json.loads(found["words"])
    except ValueError:
        return line
    return f"Step {found['count']} : RUN {words[-1]}" if words[:2] == ["/bin/sh", "-c"] else line


def _readable(command: str) -> str:
    """``/bin/sh -c make all`` (as both builders print an exec-form RUN) without its wrapper."""
    text = command.strip().strip('"')
    return re.sub(r"^/bin/sh -c ", "", text)


def _private_config(own: Path, directory: Path) -> None:
    """A copy of the user's docker configuration that keeps passwords in itself only, never in the user's keychain."""
    directory.chmod(0o700)
    try:
        document = json.loads((own / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        document = {}
    for key in ("credsStore", "credHelpers"):
        document.pop(key, None)
    target = directory / "config.json"
    target.touch(mode=0o600)
    target.write_text(json.dumps(document), encoding="utf-8")
    for name in ("contexts", "cli-plugins", "certs.d"):
        if (own / name).is_dir():
            (directory / name).symlink_to(own / name)


def _start(argv: Sequence[str], **options: Any) -> subprocess.Popen[bytes]:
    try:
        return subprocess.Popen(list(argv), **options)
    except FileNotFoundError as error:
        raise _no_docker() from error


def _no_docker() -> LainError:
    return Unavailable(
        "the docker command is not installed", why="images are built and pushed with it", code="docker_missing",
        next="apt-get install docker.io, or see docs.docker.com/engine/install",
    )  # fmt: skip
