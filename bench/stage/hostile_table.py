"""Hostile data on its way through a whole router: the store, the watcher's table, a real nginx; and what good apps see of it meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import random
import ssl
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bench.stage.hostile_apps import Datum, Fate, data
from bench.stage.routers import Watched, watched
from lain_shared import keys
from lain_shared.records import encode
from lain_shared.store import Put
from lain_shared.testing import MemoryStore, eventually
from lain_watcher.adapters.nginx import TableRefused
from tests.fixtures.certificates import Authority
from tests.fixtures.nginx import NginxBox

BATCH = 1000
ASKED = 60
"""Good apps asked after each batch."""
APPLIED_SECONDS = 60.0
MAX_RECORD_BYTES = 1_000_000
"""etcd takes 1.5 MiB in one request."""
TABLES = 200


@dataclass(slots=True)
class Findings:
    """``breaches``: what must not be. ``counts``: data by kind. ``seconds``: from the last write of a batch until nginx had it all."""

    breaches: list[str] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)
    asked: int = 0
    failed: int = 0
    record_bytes: int = 0
    certificates: int = 0
    tables: Counter[str] = field(default_factory=Counter)


async def prove(count: int, seed: int) -> Findings:
    """``count`` apps' data in batches, then hostile tables and certificates."""
    found = Findings()
    async with backend() as port, watched(MemoryStore()) as router:
        everything = list(data(count, seed, port))
        standing: list[Datum] = []
        processes: list[int] = []
        for start in range(0, count, BATCH):
            batch = everything[start : start + BATCH]
            began = time.monotonic()
            for datum in batch:
                await router.store.txn([], [Put(datum.key, datum.value)])
            standing += batch
            await _applied(router)
            found.seconds.append(time.monotonic() - began)
            processes = processes or [router.box.master, *sorted(router.box.workers)]
            _judge(router, standing, found)
            await _ask(router.box, [one for one in standing if one.fate is Fate.GOOD], seed + start, found)
        found.counts.update(datum.kind for datum in everything)
        await _tables(router, standing, seed, found)
        await _certificates(router, seed, found)
        await _ask(router.box, [one for one in standing if one.fate is Fate.GOOD], seed, found)
        if [router.box.master, *sorted(router.box.workers)] != processes:
            found.breaches.append("nginx's processes are not those it began with")
        found.breaches += [f"nginx: {line[:300]}" for line in router.box.said.splitlines() if _is_trouble(line)]
    return found


def _is_trouble(line: str) -> bool:
    return any(word in line for word in ("[alert]", "[emerg]", "lua entry thread aborted", "unusable: "))


async def _applied(router: Watched) -> None:
    """Until nginx serves from all that stands in the store."""
    wanted = max((entry.mod_revision for entry in (await router.store.list(keys.ENDPOINTS.prefix)).entries), default=0)

    def reached() -> bool:
        table = router.router.table
        return table is not None and table.revision >= wanted and router.router.settled

    await eventually(reached, APPLIED_SECONDS, what=f"revision {wanted} is applied")


def _judge(router: Watched, standing: Iterable[Datum], found: Findings) -> None:
    """Every datum is where it belongs."""
    verdict = router.router.verdict
    assert verdict is not None
    routes = {(route.host, route.path): entry.app for entry in verdict.table.procs.values() for route in entry.routes}
    for datum in standing:
        entry = verdict.table.procs.get((datum.app, "web"))
        quarantined, unusable = datum.app in verdict.quarantined, datum.app in verdict.not_applied
        served = entry is not None and bool(entry.routes)
        match datum.fate:
            case Fate.GOOD:
                owner = routes.get((datum.host, "/"))
                if owner != datum.app or quarantined or unusable or entry is None or len(entry.ready) != 1:
                    found.breaches.append(f"{datum.app} is not served as asked: {owner} has its route")
            case Fate.QUARANTINED if not quarantined or served:
                found.breaches.append(f"{datum.app} ({datum.kind}) is not quarantined: {datum.value[:200]!r}")
            case Fate.NOT_APPLIED if not (quarantined and unusable) or served:
                found.breaches.append(f"{datum.app} ({datum.kind}) is not told as not applied: {datum.value[:200]!r}")
            case Fate.NOBODY if served:
                found.breaches.append(f"{datum.key!r} ({datum.kind}) is served")
    published = len(encode(router.router.report, keys.ROUTERS.version))
    found.record_bytes = max(found.record_bytes, published)


# --- what a visitor sees ----------------------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def backend() -> AsyncIterator[int]:
    """A server at every loopback address: it answers with the address it was asked at. Its port."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            while True:
                await reader.readuntil(b"\r\n\r\n")
                body = writer.get_extra_info("sockname")[0].encode()
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
        writer.close()

    server = await asyncio.start_server(serve, "0.0.0.0", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]
        server.close()


async def _ask(box: NginxBox, good: Sequence[Datum], seed: int, found: Findings) -> None:
    chosen = random.Random(seed).sample(good, min(ASKED, len(good)))
    for datum in chosen:
        found.asked += 1
        answer = await get(box.http_port, datum.host)
        if not answer.startswith(b"HTTP/1.1 200 ") or not answer.endswith(datum.address.encode()):
            found.failed += 1
            found.breaches.append(f"{datum.host} answered {answer[:100]!r}, not from {datum.address}")


async def get(port: int, host: str, tls: ssl.SSLContext | None = None) -> bytes:
    """The whole answer to GET /."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=tls, server_hostname=host if tls else None)
    writer.write(f"GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
    async with asyncio.timeout(10):
        answer = await reader.read()
    writer.transport.abort()
    return answer


# --- the table itself, and certificates -------------------------------------------------------------------------------


async def _tables(router: Watched, standing: Sequence[Datum], seed: int, found: Findings) -> None:
    """Tables that are cut, torn, or no tables at all: refused, or taken for what they say; the right one is back afterwards."""
    text = router.router.text
    assert text is not None
    chance = random.Random(seed)
    right = text.text
    for _ in range(TABLES):
        wrong = bytearray(right)
        match chance.randrange(4):
            case 0:
                del wrong[chance.randrange(len(wrong)) :]
            case 1:
                for _ in range(chance.randrange(1, 50)):
                    wrong[chance.randrange(len(wrong))] = chance.randrange(256)
            case 2:
                at = chance.randrange(len(wrong))
                wrong[at:at] = chance.choice(
                    (b"\n", b"\0", b"{}\n", b"null\n", b"[" * 2000, b'{"proc":[]}\n', b'{"proc":["a"]}\n')
                )
            case _:
                wrong = bytearray(chance.randbytes(chance.randrange(2000)))
        try:
            state = await router.nginx.put_table(bytes(wrong))
            found.tables["taken" if state is not None else "absent"] += 1
        except TableRefused:
            found.tables["refused"] += 1
    await router.nginx.put_table(right)
    if found.tables["absent"]:
        found.breaches.append("nginx went away over a table")
    good = [one for one in standing if one.fate is Fate.GOOD]
    await _ask(router.box, good, seed, found)


async def _certificates(router: Watched, seed: int, found: Findings) -> None:
    """A folder of certificates, most of which are none: the good ones serve, each of the others is told of."""
    folder = router.box.root / "certificates"
    chance = random.Random(seed)
    authority = Authority(router.box.root / "authority")
    good = [f"good-{number}.example" for number in range(10)]
    for name in good:
        pair(folder, name, authority.issue(name))
    other = authority.issue("other")
    bad: list[str] = []
    for number in range(150):
        name = f"bad-{number}.example"
        chain, key = (other / "cert.pem").read_bytes(), (other / "key.pem").read_bytes()
        match number % 10:
            case 0:
                key = b""
            case 1:
                chain = b""
            case 2:
                chain = chance.randbytes(500)
            case 3:
                key = (authority.issue("third") / "key.pem").read_bytes()  # of another certificate
            case 4:
                chain = chain[: len(chain) // 2]
            case 5:
                key = key.replace(b"PRIVATE", b"PUBLIC")
            case 6:
                chain = b"x" * 300_000
            case 7:
                key = b"-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n"
            case 8:
                chain = chain + b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"
            case _:
                (folder / f"{name}.crt").mkdir()
                bad.append(name)
                continue
        (folder / f"{name}.crt").write_bytes(chain)
        (folder / f"{name}.key").write_bytes(key)
        bad.append(name)
    found.certificates = len(good) + len(bad)

    def in_force() -> bool:
        table = router.router.table
        return table is not None and table.certificates.keys() >= set(good) and router.router.settled

    await eventually(in_force, 15.0, what="the good certificates serve")
    views = {view.pattern: view for view in router.router.certificates.views}
    untold = [name for name in bad if name not in views or not views[name].problem or views[name].served]
    found.breaches += [f"certificate {name} is none, and nobody says so: {views.get(name)}" for name in untold]
    for name in good:
        context = ssl.create_default_context(cafile=str(router.box.root / "authority" / name / "ca.pem"))
        context.check_hostname = False
        answer = await get(router.box.https_port, name, context)
        if b" 200 " not in answer.partition(b"\r\n")[0]:
            found.breaches.append(f"https://{name} answered {answer[:100]!r}")
    for name in bad[:20]:
        context = ssl.create_default_context()
        with contextlib.suppress(ssl.SSLError, ConnectionError, asyncio.IncompleteReadError):
            answer = await get(router.box.https_port, name, context)
            found.breaches.append(f"https://{name} answered {answer[:100]!r}")


def pair(folder: Path, name: str, issued: Path) -> None:
    """A certificate as the watcher looks for it."""
    (folder / f"{name}.key").write_bytes((issued / "key.pem").read_bytes())
    (folder / f"{name}.crt").write_bytes((issued / "cert.pem").read_bytes())
