"""Thousands of apps' data, most of it hostile, each with what must become of it: made from a seed.

What a datum is, is known by how it was made, not by asking the code under proof: ``GOOD`` serves as asked, ``QUARANTINED`` keeps its routes
out, ``NOT_APPLIED`` has addresses (or a whole record) that cannot be used, ``EITHER`` is odd but harmless, ``NOBODY`` names no app at all.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from lain_shared import keys
from lain_shared.model.route import Endpoint, Endpoints, ProxyOptions, Route
from lain_shared.records import encode


class Fate(StrEnum):
    GOOD = "good"
    QUARANTINED = "quarantined"
    NOT_APPLIED = "not applied"
    EITHER = "either"
    NOBODY = "nobody"


@dataclass(frozen=True, slots=True)
class Datum:
    """One key of ``endpoints`` and its value. ``host``, ``address``: of a good one, where it answers and with whose address."""

    kind: str
    app: str
    key: str
    value: bytes
    fate: Fate
    host: str = ""
    address: str = ""


BAD_HOSTS = (
    "", " ", "a b", "a\nb.example", "a.example\r\nX-Evil: y", "a\0b.example", "-a.example", "a-.example", "a..example",
    ".example", "a.example.", "UPPER.example", "under_score.example", "*", "*.", "*.*.example", "a.*.example", "**.example",
    "[::1]", "a.example:80", "http://a.example", "a.example/b", "ä.example", "\u202ea.example", "💩.example", "ａ.example",
    "x" * 64 + ".example", "a." * 130 + "example", "${host}.example", "$(id).example", "`id`.example", "';return 1--", '"',
    "\\", "%41.example", "a.example\t", "a,b.example", "a;b.example", "a=b", "{}", "]]", "\u2028",
)  # fmt: skip
ODD_HOSTS = ("xn--p1ai.example", "1.2.3.4", "a" * 63 + ".example", "localhost", "0", ".".join(["a" * 49] * 5))
BAD_PATHS = (
    "", "x", "//", "/a/", "/a//b", "/../x", "/a/../b", "/./a", "/a/.", "/a?b=c", "/a#b", "/a b", "/a\nb", "/a\r\nb", "/\0",
    "/ä", "/💩", "/" + "a" * 5000, "/a\\b", '/"', "/a{b}", "/a|b", "/<script>", "/a^b", "/`id`", "/\x7f", "/a\t", "\\a", "/[a]",
    "//evil.example/a",
)  # fmt: skip
ODD_PATHS = (
    "/%2e%2e", "/%00", "/a%2Fb", "/-", "/~u", "/a:b@c", "/*", "/'", "/$host", "/(a)", "/" + "/".join("a" * 200),
)  # fmt: skip
BAD_ADDRESSES = (
    "", "999.1.1.1", "1.2.3", "::1", "0.0.0.0", "224.0.0.1", "127.0.0.1:80", "127.0.0.1 ", "localhost", "1.2.3.4\n", "０.0.0.1",
    "010.1.1.1", "-1.1.1.1", "1.2.3.4.5", "0x7f.1.1.1", "unix:/run/x", "\0", "1.2.3.4/24",
)  # fmt: skip
BAD_PORTS = (-1, 0, 65_536, 2**31, -(2**40))
BAD_OPTIONS = (
    ProxyOptions(read_timeout_seconds=0), ProxyOptions(read_timeout_seconds=-5), ProxyOptions(read_timeout_seconds=10**9),
    ProxyOptions(max_body_bytes=-1), ProxyOptions(max_body_bytes=2**60),
)  # fmt: skip
BAD_DOCUMENTS = (
    b"", b"{", b"null", b"[]", b'"text"', b"{}", b"\xff\xfe", b"[" * 5000, b'{"v":1,"app":"' + b"a" * 200_000,
    b'{"v":99,"app":"a","proc":"web","port":1}', b'{"v":1,"app":1,"proc":"web","port":80}',
    b'{"v":1,"app":"a","proc":"web","port":"80"}', b'{"v":1,"app":"a","proc":"web","port":1e400}',
    b'{"v":1,"app":"a","proc":"web","port":99999999999999999999999}', b'{"v":1,"app":"a","proc":"web","port":80,"ready":[{}]}',
    b'{"v":1,"app":"a","proc":"web","port":80,"routes":[null]}', b'{"v":1,"app":"\\ud800","proc":"web","port":80,"routes":"x"}',
    b'{"v":NaN}', b'{"v":1,"app":"a","proc":"web","port":80,"proxy":[]}', b'{"v":"1"}', b'{"v":-1,"port":80}', b"\0" * 100,
    b'{"v":1}{"v":1}',
)  # fmt: skip
ODD_NAMES = ("a\nb", "a b", "ä", "💩", "a/b", "..", "a" * 300, "'--", '"', "\\", "$app", "\x01", "a.b.c", "%2e")


def data(count: int, seed: int, port: int, *, good_share: float = 0.2) -> Iterator[Datum]:
    """``count`` of them. Good ones answer at ``good-<n>.example`` with 127.x addresses of their own, at ``port``."""
    chance = random.Random(seed)
    for number in range(count):
        if number < 10 or chance.random() < good_share:
            yield _good(number, port)
        else:
            yield chance.choice(_KINDS)(number, port, chance)


def address_of(number: int) -> str:
    """A loopback address of its own for each."""
    return f"127.{80 + number // 62_500}.{number // 250 % 250 + 1}.{number % 250 + 1}"


def _datum(kind: str, app: str, record: Endpoints, fate: Fate, **more: str) -> Datum:
    return Datum(kind, app, keys.ENDPOINTS.key(app, "web"), encode(record, keys.ENDPOINTS.version), fate, **more)


def _record(app: str, number: int, port: int, *routes: Route, proxy: ProxyOptions | None = None) -> Endpoints:
    ready = (Endpoint(1, 1, address_of(number)),)
    return Endpoints(app, "web", port, routes, proxy or ProxyOptions(), 1, ready)


def _good(number: int, port: int) -> Datum:
    app, host = f"good-{number}", f"good-{number}.example"
    return _datum(
        "good", app, _record(app, number, port, Route(host)), Fate.GOOD, host=host, address=address_of(number)
    )


def _host(number: int, port: int, chance: random.Random) -> Datum:
    app, host = f"host-{number}", chance.choice(BAD_HOSTS)
    return _datum("host", app, _record(app, number, port, Route(host)), Fate.QUARANTINED)


def _one_bad_of_many(number: int, port: int, chance: random.Random) -> Datum:
    app = f"many-{number}"
    routes = [Route(f"many-{number}.example", f"/{part}") for part in range(5)]
    routes.insert(chance.randrange(5), Route(chance.choice(BAD_HOSTS), "/x"))
    return _datum("one bad route of many", app, _record(app, number, port, *routes), Fate.QUARANTINED)


def _odd_host(number: int, port: int, chance: random.Random) -> Datum:
    app = f"odd-{number}"
    return _datum("odd host", app, _record(app, number, port, Route(chance.choice(ODD_HOSTS))), Fate.EITHER)


def _path(number: int, port: int, chance: random.Random) -> Datum:
    app, path = f"path-{number}", chance.choice(BAD_PATHS)
    return _datum("path", app, _record(app, number, port, Route(f"path-{number}.example", path)), Fate.QUARANTINED)


def _odd_path(number: int, port: int, chance: random.Random) -> Datum:
    app, path = f"oddpath-{number}", chance.choice(ODD_PATHS)
    return _datum("odd path", app, _record(app, number, port, Route(f"oddpath-{number}.example", path)), Fate.EITHER)


def _noise(number: int, port: int, chance: random.Random) -> Datum:
    app = f"noise-{number}"
    host = "".join(chr(chance.randrange(1, 0x2FF)) for _ in range(chance.randrange(1, 60)))
    path = "/" + "".join(chr(chance.randrange(1, 0x2FF)) for _ in range(chance.randrange(1, 60)))
    return _datum("noise", app, _record(app, number, port, Route(f"{host} ", path)), Fate.QUARANTINED)


def _huge(number: int, port: int, chance: random.Random) -> Datum:
    app = f"huge-{number}"
    return _datum(
        "huge host", app, _record(app, number, port, Route("h" * chance.randrange(1000, 50_000))), Fate.QUARANTINED
    )


def _address(number: int, port: int, chance: random.Random) -> Datum:
    app, bad = f"address-{number}", Endpoint(2, 1, chance.choice(BAD_ADDRESSES))
    where = chance.choice(("ready", "suspect", "draining"))
    fields: dict[str, Any] = {"ready": (Endpoint(1, 1, address_of(number)),)}
    fields[where] = (*fields.get(where, ()), bad)
    record = Endpoints(app, "web", port, (Route(f"address-{number}.example"),), release=1, **fields)
    return _datum("address", app, record, Fate.NOT_APPLIED)


def _port(number: int, _: int, chance: random.Random) -> Datum:
    app = f"port-{number}"
    record = _record(app, number, chance.choice(BAD_PORTS), Route(f"port-{number}.example"))
    return _datum("port", app, record, Fate.NOT_APPLIED)


def _options(number: int, port: int, chance: random.Random) -> Datum:
    app = f"options-{number}"
    record = _record(app, number, port, Route(f"options-{number}.example"), proxy=chance.choice(BAD_OPTIONS))
    return _datum("options", app, record, Fate.QUARANTINED)


def _thief(number: int, port: int, chance: random.Random) -> Datum:
    """Claims the host of another, who was first."""
    app, host = f"thief-{number}", f"good-{chance.randrange(10)}.example"
    return _datum("thief", app, _record(app, number, port, Route(host)), Fate.QUARANTINED)


def _impostor(number: int, port: int, chance: random.Random) -> Datum:
    """Stands under its own key and says that it is another app."""
    app, victim = f"impostor-{number}", f"good-{chance.randrange(10)}"
    record = _record(victim, number, port, Route(f"impostor-{number}.example"))
    return Datum(
        "impostor", app, keys.ENDPOINTS.key(app, "web"), encode(record, keys.ENDPOINTS.version), Fate.NOT_APPLIED
    )


def _document(number: int, _: int, chance: random.Random) -> Datum:
    app, value = f"document-{number}", chance.choice(BAD_DOCUMENTS)
    if chance.random() < 0.5:  # a whole document, and somewhere in it another byte
        whole = bytearray(encode(_record(app, number, 80, Route(f"document-{number}.example")), keys.ENDPOINTS.version))
        whole[chance.randrange(len(whole))] = chance.randrange(256)
        return Datum("mutated document", app, keys.ENDPOINTS.key(app, "web"), bytes(whole), Fate.EITHER)
    return Datum("document", app, keys.ENDPOINTS.key(app, "web"), value, Fate.NOT_APPLIED)


def _name(number: int, port: int, chance: random.Random) -> Datum:
    app = f"{chance.choice(ODD_NAMES)}{number}"
    return _datum("odd name", app, _record(app, number, port, Route(f"name-{number}.example")), Fate.EITHER)


def _key(number: int, port: int, chance: random.Random) -> Datum:
    """A key of another shape."""
    app = f"key-{number}"
    value = encode(_record(app, number, port, Route(f"key-{number}.example")), keys.ENDPOINTS.version)
    tail = chance.choice((app, f"{app}/web/more", f"{app}//", f"/{app}", f"{app}/web/", f"%zz{app}"))
    return Datum("key", app, keys.ENDPOINTS.prefix + tail, value, Fate.NOBODY)


_KINDS = (
    _host, _host, _one_bad_of_many, _odd_host, _path, _path, _odd_path, _noise, _huge, _address, _address, _port, _options,
    _thief, _impostor, _document, _document, _name, _key,
)  # fmt: skip
