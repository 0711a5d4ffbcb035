"""What one run of the command line knows: environment, directory, configuration, output form; each read only when asked for."""

from __future__ import annotations

import asyncio
import os
import re
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from lain_cli.config import Config, Phase
from lain_cli.docker import Docker
from lain_cli.render import Progress, Screen, to_json
from lain_shared.errors import Invalid, LainError, NotFound

if TYPE_CHECKING:
    from lain_sdk.client import Agent, Console, Deployd
    from lain_sdk.manifest import Manifest

T = TypeVar("T")
MANIFEST = "lain.yaml"
_APPNAME = re.compile(rb"""^appname[ \t]*:[ \t]*["']?([A-Za-z0-9.-]+)["']?[ \t]*(?:#.*)?\r?$""", re.MULTILINE)


class Run:
    """One invocation. ``output``: ``pretty``, ``json`` or ``json-pretty``."""

    def __init__(self, environ: Mapping[str, str] | None = None, directory: Path | None = None) -> None:
        self.environ: Mapping[str, str] = dict(os.environ) if environ is None else environ
        self.directory = directory or Path.cwd()
        self.phase_name: str | None = None
        self.output = "pretty"
        self.app_word: str | None = None
        """The app given as a word of its own, for commands that take one."""

    # --- configuration ---

    @cached_property
    def config(self) -> Config:
        return Config(self.environ)

    @cached_property
    def phase(self) -> Phase:
        """The cluster to talk to."""
        return self.config.phase(self.phase_name)

    @cached_property
    def docker(self) -> Docker:
        return Docker(self.environ, sys.stderr)

    # --- the app ---

    @property
    def manifest_file(self) -> Path:
        return self.directory / MANIFEST

    def manifest_bytes(self) -> bytes:
        """The text of ``lain.yaml``; ``NotFound`` says how to get one."""
        try:
            return self.manifest_file.read_bytes()
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
            raise NotFound(
                f"there is no {MANIFEST} in {self.directory}", next="go to your app's directory, or write one: lain init",
                code="manifest_missing",
            ) from error  # fmt: skip
        except OSError as error:
            raise Invalid(f"{self.manifest_file} cannot be read", why=str(error), code="manifest_unreadable") from error

    @cached_property
    def manifest(self) -> Manifest:
        """The valid manifest of this directory; ``ManifestInvalid`` lists every fault."""
        from lain_sdk.manifest import load  # noqa: PLC0415 - commands without a manifest do not pay for it

        return load(self.manifest_bytes(), file=MANIFEST)

    def app(self, named: str | None) -> str:
        """The app to act on: the one named, else this directory's (whatever else is wrong with its manifest)."""
        if named and self.app_word and named != self.app_word:
            raise Invalid(f"two apps are named: {self.app_word} and {named}", code="app_ambiguous")
        if named or self.app_word:
            return named or self.app_word or ""
        try:
            text = self.manifest_bytes()
        except NotFound as error:
            error.next = "name the app, or go to its directory"
            raise
        if found := _APPNAME.search(text):
            return found[1].decode()
        return self.manifest.appname

    # --- the cluster ---

    @asynccontextmanager
    async def console(self) -> AsyncIterator[Console]:
        """A connected client of the phase's console."""
        from lain_sdk.client import Console  # noqa: PLC0415 - help pages do not pay for it

        with self.ca_file() as ca:
            async with Console(self._url("console"), token=self.phase.token or None, ca=ca) as client:
                yield client

    @asynccontextmanager
    async def deployd(self) -> AsyncIterator[Deployd]:
        """A connected client of the phase's deployd controller."""
        from lain_sdk.client import Deployd  # noqa: PLC0415 - help pages do not pay for it

        with self.ca_file() as ca:
            async with Deployd(self._url("deployd"), token=self.phase.token or None, ca=ca) as client:
                yield client

    @asynccontextmanager
    async def agent(self, url: str) -> AsyncIterator[Agent]:
        """A connected client of an agent, at the address that it gives itself."""
        from lain_sdk.client import Agent  # noqa: PLC0415 - help pages do not pay for it

        with self.ca_file() as ca:
            async with Agent(
                self._safe(url, "give it a certificate: LAIN_AGENT_TLS_DIR"), token=self.phase.token or None, ca=ca
            ) as client:
                yield client

    def ca_file(self) -> _CaFile:
        """The phase's CA as a file, for as long as it is needed; None when the system's CAs decide."""
        return _CaFile(self.phase)

    def _url(self, service: str) -> str:
        url = str(getattr(self.phase, service))
        if not url:
            raise Invalid(
                f"phase {self.phase.name} has no address of {service}",
                next=f"lain config save {self.phase.name} {service} https://HOST:PORT", code="phase_incomplete",
            )  # fmt: skip
        return self._safe(url, f"lain config save {self.phase.name} {service} https://…")

    def _safe(self, url: str, next: str) -> str:
        """``url``, unless the token would be sent to it in clear over a network."""
        if url.startswith("http://") and not re.match(r"http://(127\.|localhost[:/]|localhost$|\[::1\])", url):
            raise Invalid(
                f"phase {self.phase.name} would send its token to {url} in clear",
                next=next, code="insecure_url",
            )  # fmt: skip
        return url

    def call(self, use: Callable[[Console], Coroutine[Any, Any, T]]) -> T:
        """Do one thing with the console."""

        async def body() -> T:
            async with self.console() as client:
                return await use(client)

        return asyncio.run(body())

    def call_deployd(self, use: Callable[[Deployd], Coroutine[Any, Any, T]]) -> T:
        """Do one thing with the deployd controller."""

        async def body() -> T:
            async with self.deployd() as client:
                return await use(client)

        return asyncio.run(body())

    # --- output ---

    @property
    def screen(self) -> Screen:
        """Where data goes."""
        return Screen.of(sys.stdout, self.environ)

    @cached_property
    def progress(self) -> Progress:
        """Where everything else goes."""
        return Progress(sys.stderr, self.environ)

    def show(self, value: Any, pretty: Callable[[Screen], None]) -> None:
        """Data to stdout: ``value`` as JSON, or what ``pretty`` draws."""
        if self.output == "pretty":
            pretty(self.screen)
        else:
            sys.stdout.write(to_json(value, pretty=self.output == "json-pretty") + "\n")
        sys.stdout.flush()

    @property
    def hint(self) -> str:
        """``-p NAME `` for commands we print, so that they can be copied as they are."""
        return f"-p {self.phase.name} "


class _CaFile:
    """PEM text as a file while it is used; a path as it is."""

    def __init__(self, phase: Phase) -> None:
        self._phase = phase
        self._made: str | None = None

    def __enter__(self) -> Path | None:
        ca = self._phase.ca
        if not ca:
            return None
        if "-----BEGIN" in ca:
            handle, self._made = tempfile.mkstemp(prefix="lain-ca-", suffix=".pem")
            with os.fdopen(handle, "w", encoding="ascii") as file:
                file.write(ca)
            return Path(self._made)
        path = Path(ca).expanduser()
        if not path.is_file():
            raise LainError(
                f"phase {self._phase.name}: the CA file {path} is not there",
                next=f"lain config save {self._phase.name} ca PATH", code="ca_missing",
            )  # fmt: skip
        return path

    def __exit__(self, *_: object) -> None:
        if self._made is not None:
            Path(self._made).unlink(missing_ok=True)
