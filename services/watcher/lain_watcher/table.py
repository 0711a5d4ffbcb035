"""The table nginx routes by: its nouns, and its text (JSON lines, one a proc or certificate, so that nginx decodes only what changed).

The text is a pure function of the table, and its ``version`` a hash of the text: two routers that know the same serve from the same
version. nginx's side of it is ``deploy/nginx/lua/lain/tables.lua``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

from lain_shared.errors import LainError
from lain_shared.model.route import ProxyOptions, Route

FORMAT = 1

ProcKey = tuple[str, str]
"""(app, proc)."""


class BadTable(LainError):
    """A table's text cannot be read: cut, or written by another release."""

    code = "bad_table"


@dataclass(frozen=True, slots=True)
class ProcEntry:
    """What nginx knows of one proc. Addresses in ``ready`` and ``suspect`` are ``ip:port``; ``draining`` are bare."""

    app: str
    proc: str
    routes: tuple[Route, ...] = ()
    options: ProxyOptions = field(default_factory=ProxyOptions)
    ready: tuple[str, ...] = ()
    suspect: tuple[str, ...] = ()
    draining: tuple[str, ...] = ()
    release: int = 0
    created: int = 0
    """Create revision of its ``endpoints`` key: who claimed a route first."""

    @property
    def key(self) -> ProcKey:
        return (self.app, self.proc)


@dataclass(frozen=True, slots=True)
class Certificate:
    """A certificate and its key (PEM), for the server names that match ``pattern`` (a name, or ``*.`` and a name: one label)."""

    pattern: str
    chain: str
    key: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Table:
    """All that nginx routes by, complete up to ``revision`` of the store."""

    revision: int
    procs: Mapping[ProcKey, ProcEntry] = field(default_factory=dict)
    certificates: Mapping[str, Certificate] = field(default_factory=dict)
    domains: tuple[str, ...] = ()
    """The cluster's own domains: their hosts do not exist on external ports."""
    https_port: int = 443
    """The port people reach TLS at; redirects name it when it is another one."""

    @property
    def hosts(self) -> frozenset[str]:
        return frozenset(route.host for entry in self.procs.values() for route in entry.routes)

    @property
    def draining(self) -> frozenset[str]:
        return frozenset(address for entry in self.procs.values() for address in entry.draining)


@dataclass(frozen=True, slots=True)
class TableText:
    """A table as nginx gets it."""

    version: str
    revision: int
    text: bytes


def matches(pattern: str, host: str) -> bool:
    """Whether a host pattern covers ``host``: the same name, or a wildcard for its first label."""
    return pattern == host or (pattern.startswith("*.") and "." in host and host.partition(".")[2] == pattern[2:])


def has_certificate(table: Table, host: str) -> bool:
    return any(matches(pattern, host) for pattern in table.certificates)


def encode(table: Table) -> TableText:
    """The table's text. Procs come in the order in which they were created: of two that claim a route, the first is asked."""
    body = [
        *(_proc_line(entry) for entry in sorted(table.procs.values(), key=lambda entry: (entry.created, entry.key))),
        *(_certificate_line(table.certificates[pattern]) for pattern in sorted(table.certificates)),
    ]
    fixed = {
        "lain_table": FORMAT,
        "revision": table.revision,
        "lines": len(body) + 1,
        "domains": table.domains,
        "https_port": table.https_port,
    }
    digest = hashlib.sha256(msgspec.json.encode(fixed))
    for line in body:
        digest.update(line)
    version = digest.hexdigest()[:24]
    header = msgspec.json.encode({**fixed, "version": version})
    return TableText(version, table.revision, b"\n".join([header, *body]) + b"\n")


def decode(text: bytes) -> Table:
    """The reverse of ``encode``; ``BadTable`` when the text is cut or not one of ours."""
    lines = text.splitlines()
    try:
        header, *records = [msgspec.json.decode(line) for line in lines]
        if header.get("lain_table") != FORMAT or header.get("lines") != len(lines):
            raise BadTable(
                "the table is cut or of another format", evidence={"lines": len(lines), "said": header.get("lines")}
            )
        procs = [_read_proc(record) for record in records if "proc" in record]
        certificates = [
            Certificate(record["certificate"], record["cert"], record["key"])
            for record in records
            if "certificate" in record
        ]
        return Table(
            revision=int(header["revision"]),
            procs={entry.key: entry for entry in procs},
            certificates={certificate.pattern: certificate for certificate in certificates},
            domains=tuple(header.get("domains", ())),
            https_port=int(header.get("https_port", 443)),
        )
    except (msgspec.MsgspecError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadTable("the table cannot be read", why=str(error)) from error


def _proc_line(entry: ProcEntry) -> bytes:
    options = {name: value for name, value in msgspec.to_builtins(entry.options).items() if value is not None}
    return msgspec.json.encode(
        {
            "proc": entry.key,
            "routes": entry.routes,
            "options": options,
            "ready": entry.ready,
            "suspect": entry.suspect,
            "draining": entry.draining,
            "release": entry.release,
            "created": entry.created,
        }
    )


def _certificate_line(certificate: Certificate) -> bytes:
    return msgspec.json.encode({"certificate": certificate.pattern, "cert": certificate.chain, "key": certificate.key})


def _read_proc(record: Mapping[str, Any]) -> ProcEntry:
    app, proc = record["proc"]
    rest = {name: record[name] for name in ("routes", "options", "ready", "suspect", "draining", "release", "created")}
    return msgspec.convert({"app": app, "proc": proc, **rest}, ProcEntry)
