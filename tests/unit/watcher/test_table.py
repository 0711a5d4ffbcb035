"""The table's text: what nginx and the next watcher read."""

from __future__ import annotations

import json

import pytest

from lain_shared.model.route import ProxyOptions, Route
from lain_watcher.table import BadTable, Certificate, ProcEntry, Table, decode, encode, has_certificate, matches

ENTRY = ProcEntry(
    "hello",
    "web",
    (Route("hello.example"), Route("hello.example", "/x", https_only=True)),
    ProxyOptions(read_timeout_seconds=5, sticky=True),
    ready=("10.0.0.1:80",),
    suspect=("10.0.0.2:80",),
    draining=("10.0.0.3",),
    release=4,
    created=17,
)
TABLE = Table(
    42, {ENTRY.key: ENTRY}, {"*.x.example": Certificate("*.x.example", "CHAIN\n", "KEY\n")}, ("lain.localhost",), 8443
)


def test_what_is_written_is_read_back() -> None:
    assert decode(encode(TABLE).text) == TABLE
    assert decode(encode(Table(1)).text) == Table(1)


def test_it_is_one_json_line_a_record_and_says_how_many() -> None:
    lines = [json.loads(line) for line in encode(TABLE).text.splitlines()]
    assert [sorted(line)[0] for line in lines] == ["domains", "created", "cert"]
    assert lines[0]["lines"] == 3
    assert lines[1]["options"] == {"read_timeout_seconds": 5, "sticky": True}


def test_the_version_is_the_contents() -> None:
    same = Table(42, dict(TABLE.procs), dict(TABLE.certificates), TABLE.domains, TABLE.https_port)
    assert encode(same) == encode(TABLE)
    changed = [
        Table(43, TABLE.procs, TABLE.certificates, TABLE.domains, 8443),
        Table(42, {}, TABLE.certificates, TABLE.domains, 8443),
        Table(42, TABLE.procs, {}, TABLE.domains, 8443),
        Table(42, TABLE.procs, TABLE.certificates, (), 8443),
        Table(42, TABLE.procs, TABLE.certificates, TABLE.domains, 443),
    ]
    assert len({encode(table).version for table in (TABLE, *changed)}) == 6


def test_unchanged_procs_are_unchanged_lines() -> None:
    """nginx decodes only lines it has not seen."""
    other = ProcEntry("other", "web", ready=("10.0.0.9:80",), created=99)
    before, after = encode(TABLE).text, encode(Table(50, {**TABLE.procs, other.key: other}, TABLE.certificates)).text
    assert set(before.splitlines()[1:]) < set(after.splitlines())


def test_hostile_text_stays_within_its_line() -> None:
    evil = ProcEntry("a\n{}", 'b"\r\u2028\x85', (Route("\n\r\x00"),), created=1)
    text = encode(Table(1, {evil.key: evil})).text
    assert len(text.splitlines()) == 2
    assert decode(text).procs[evil.key] == evil


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{}",
        b"nonsense",
        encode(TABLE).text.rsplit(b"\n", 2)[0],
        encode(TABLE).text[:-40],
        encode(TABLE).text.replace(b'"lain_table":1', b'"lain_table":2'),
        encode(TABLE).text.replace(b'"created"', b'"kreated"'),
    ],
)
def test_a_cut_or_foreign_table_is_refused(text: bytes) -> None:
    with pytest.raises(BadTable):
        decode(text)


def test_a_wildcard_covers_one_label() -> None:
    assert matches("*.x.example", "a.x.example")
    assert matches("a.example", "a.example")
    assert matches("*.x.example", "*.x.example")
    for host in ("x.example", "a.b.x.example", "ax.example", "example"):
        assert not matches("*.x.example", host)
    assert has_certificate(TABLE, "a.x.example")
    assert not has_certificate(TABLE, "x.example")
