"""Manifests nobody wrote: real ones with bytes, lines and values torn out and put elsewhere, documents put together from every key there
is and values that fit none of them, and texts made to be expensive. The parser answers with a manifest or with ``ManifestInvalid``,
soon, and whatever it took can be made into what the cluster should run.
"""

from __future__ import annotations

import random
import string
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import hypothesis
import yaml
from hypothesis import strategies as st

from lain_sdk.manifest import Manifest, ManifestInvalid, dump, load
from lain_shared.errors import LainError

EXAMPLES = Path(__file__).parents[2] / "examples"
REFERENCE = Path(__file__).parents[2] / "docs" / "reference" / "lain-yaml.md"
MAX_BYTES = 256 * 1024
DOMAINS = ("lain.localhost", "apps.example.org")


@dataclass(slots=True)
class Findings:
    """``seconds``: of the processor, for each parse. ``breaches``: what crashed, with its text's beginning."""

    counts: Counter[str] = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)
    slowest: str = ""
    breaches: list[str] = field(default_factory=list)


def try_one(kind: str, text: str | bytes, found: Findings) -> None:
    """Parse it, and make of it what can be made."""
    began = time.thread_time()
    try:
        manifest = load(text)
    except ManifestInvalid as refused:
        outcome = "refused"
        str(refused), refused.to_document()
        manifest = None
    except Exception as error:
        outcome, manifest = "crashed", None
        found.breaches.append(_told(kind, text, error))
    else:
        outcome = "taken"
    seconds = time.thread_time() - began
    if seconds > max(found.seconds, default=0.0):
        found.slowest = f"{kind}: {_beginning(text)}"
    found.seconds.append(seconds)
    found.counts[f"{kind}: {outcome}"] += 1
    if manifest is not None:
        try:
            _use(manifest)
        except LainError:
            pass
        except Exception as error:
            found.breaches.append(f"taken, and of no use: {_told(kind, text, error)}")


def _use(manifest: Manifest) -> None:
    wanted = manifest.images("1700000000-abc")
    manifest.desired(
        domains=DOMAINS, images=dict.fromkeys(wanted, "hello@sha256:" + "0" * 64), release=1, env={"A": "b"},
        meta_version="1700000000-abc", timezone="UTC",
    )  # fmt: skip
    again = load(dump(manifest))
    if dump(again) != dump(manifest):
        raise AssertionError("what was dumped reads otherwise")


def _told(kind: str, text: str | bytes, error: Exception) -> str:
    last = traceback.extract_tb(error.__traceback__)[-1]
    return f"{kind}: {type(error).__name__}: {str(error)[:200]} at {Path(last.filename).name}:{last.lineno}; {_beginning(text)}"


def _beginning(text: str | bytes) -> str:
    return f"{len(text)} of {text[:300]!r}"


# --- what to try ------------------------------------------------------------------------------------------------------


def seeds() -> list[str]:
    """Every example, and every YAML block of the reference."""
    found = [path.read_text() for path in sorted(EXAMPLES.glob("*/lain.yaml"))]
    blocks = REFERENCE.read_text().split("```yaml\n")[1:]
    return found + [block.partition("```")[0] for block in blocks]


def keys_known() -> list[str]:
    """Every key the reference names."""
    named = (line.split("`")[1] for line in REFERENCE.read_text().splitlines() if line.startswith("| `"))
    return sorted({name.replace(".X", ".x") for name in named if name and " " not in name})


def mutated(count: int, seed: int) -> Iterator[bytes]:
    """``count`` texts made of the seeds."""
    chance, texts, keys = random.Random(seed), seeds(), keys_known()
    for _ in range(count):
        text = chance.choice(texts)
        for _ in range(chance.choice((1, 1, 2, 3, 8))):
            text = chance.choice(_CHANGES)(text, chance, texts, keys)
        raw = text.encode("utf-8", "surrogatepass")
        if chance.random() < 0.15:
            torn = bytearray(raw)
            for _ in range(chance.randrange(1, 6)):
                torn[chance.randrange(len(torn)) if torn else 0 :][:1] = bytes([chance.randrange(256)])
            raw = bytes(torn)
        yield raw[:MAX_BYTES]


Change = Callable[[str, random.Random, Sequence[str], Sequence[str]], str]
VALUES = (
    "", "~", "null", "true", "no", "yes", "0", "-1", "010", "0x1F", "1e400", "1e-400", ".inf", ".nan", "9" * 400, "1.5",
    "22:30", "2001-12-14", "'", '"', "[]", "{}", "[[]]", "{a: }", "[~, ~]", "- x", "&a x", "*a", "*b", "!!int x",
    "!!python/object/apply:os.system [id]", "!!binary AAAA", "! x", "<<: x", "|", ">", "|+9", ">-", "@x", "`x`", "%x", "? x",
    ": x", "- - - -", "a: b: c", "a\tb", "\\", "\u2028", "\ufeff", "é", "💩", "$HOME", "$(id)", "${X}", "{{ x }}",
    "{% for x in range(10**9) %}{% endfor %}", "a" * 5000, "64m", "1g", "-64m", "0m", "64M ", "99999999999999999999g", "/",
    "//", "/..", "/a/../b", "a/b", "http://x", "x:y@z", "1-2", "*.example", "constraint:a==b", "affinity:~", "a=b", "=",
    "A=" + "x" * 70_000, "[a, a, a]", "{a: 1, a: 2}", "0o777", "1_000",
)  # fmt: skip


def _value(text: str, chance: random.Random, _: Sequence[str], __: Sequence[str]) -> str:
    lines = text.split("\n")
    places = [number for number, line in enumerate(lines) if ":" in line]
    if places:
        at = chance.choice(places)
        lines[at] = lines[at].partition(":")[0] + ": " + chance.choice(VALUES)
    return "\n".join(lines)


def _key(text: str, chance: random.Random, _: Sequence[str], keys: Sequence[str]) -> str:
    lines = text.split("\n")
    at = chance.randrange(len(lines) + 1)
    indent = " " * chance.choice((0, 2, 2, 4, 1))
    lines.insert(at, f"{indent}{chance.choice(keys)}: {chance.choice(VALUES)}")
    return "\n".join(lines)


def _lines(text: str, chance: random.Random, texts: Sequence[str], _: Sequence[str]) -> str:
    lines, others = text.split("\n"), chance.choice(texts).split("\n")
    at = chance.randrange(len(lines))
    match chance.randrange(4):
        case 0:
            del lines[at : at + chance.randrange(1, 4)]
        case 1:
            lines[at:at] = others[: chance.randrange(1, 10)]
        case 2:
            lines[at] = "  " + lines[at]
        case _:
            lines[at:at] = lines[at : at + 3] * chance.randrange(1, 5)
    return "\n".join(lines)


def _characters(text: str, chance: random.Random, _: Sequence[str], __: Sequence[str]) -> str:
    made = list(text)
    for _number in range(chance.randrange(1, 6)):
        at = chance.randrange(len(made) + 1)
        made[at : at + chance.randrange(2)] = chance.choice(string.printable + "\0\x01\x85\u2028\ufeff\ud800é💩")
    return "".join(made)


_CHANGES: Sequence[Change] = (_value, _value, _key, _key, _lines, _characters)


def expensive() -> Iterator[tuple[str, str | bytes]]:
    """Texts that are dear to a careless reader, as large as a manifest may be."""
    head = "appname: hello\nbuild: {base: b}\n"
    most = MAX_BYTES - len(head) - 100

    def filled(piece: str, before: str = "", after: str = "") -> str:
        return head + before + piece * (most // len(piece)) + after

    yield "one long scalar", filled("x", "web: {cmd: ", "}")
    yield "one long key", head + "x" * most + ": y\n"
    yield "one long quoted scalar of escapes", filled("\\x41", 'web: {cmd: "', '"}')
    yield "deep lists", filled("[", "web: ")
    yield "deep maps", filled("{a: ", "web: ")
    yield "deep by indentation", head + "".join(f"{' ' * depth}a:\n" for depth in range(700))
    yield "many keys", head + "".join(f"web.x{number}: {{cmd: a}}\n" for number in range(most // 24))
    yield "many equal keys", filled("web: {cmd: a}\n")
    yield (
        "many unknown keys, each near a known one",
        head + "".join(f"buil{number}: 1\n" for number in range(most // 14)),
    )
    yield (
        "many unknown keys of a proc",
        head + "web:\n" + "".join(f"  memor{number}: 1\n" for number in range(most // 17)),
    )
    yield "a list of many", filled("a=b,", "web: {env: [", "]}")
    yield "many wrong items", filled("~,", "web: {env: [", "]}")
    yield "many commands", filled("x,", "test: {script: [", "]}")
    yield "aliases upon aliases", head + "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
        f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 40)
    )  # fmt: skip
    yield "an alias of itself", head + "a: &a [*a, *a]\n"
    yield "merges upon merges", head + "b0: &b0 {x0: 1}\n" + "".join(
        f"b{n}: &b{n} {{<<: [*b{n - 1}, *b{n - 1}], x{n}: 1}}\n" for n in range(1, 400)
    )  # fmt: skip
    yield "one alias, very often", filled("*a,", "a: &a x\nweb: {cmd: [", "]}")
    yield "one long alias, very often", head + "a: &a " + "x" * 100_000 + "\nweb: {cmd: [" + "*a," * 40_000 + "]}"
    yield "many anchors", filled("- &a x\n", "a:\n")
    yield "a word of quotes", filled("'a' ", "web: {cmd: ", "}")
    yield "a command of backslashes", filled("\\", "web: {cmd: '", "'}")
    yield "a command of open quotes", filled("\"'", "web: {cmd: ", "}")
    yield "digits", filled("9", "web: {memory: ", "}")
    yield "digits of an exponent", filled("9", "web: {memory: 1e", "}")
    yield "a host of many labels", filled("a.", "web: {mountpoint: [", "a]}")
    yield "a host of hyphens", filled("-", "web: {mountpoint: [a", "a]}")
    yield "a name of hyphens", filled("a-", "appname: ", "a")
    yield "an image of slashes", filled("a/", "image: ", "a")
    yield "an image of dots", filled("a.", "image: ", "/")
    yield "an image of underscores", filled("_", "image: a", "!")
    yield "a path of slashes", filled("/", "web: {mountpoint: [a", "]}")
    yield "a version of dots", filled("1.", "web: {image: 'a:", "'}")
    yield "a filter of colons", filled(":", "web: {filters: [constraint", "]}")
    yield "a schedule of commas", filled("1,", "web: {volumes: [{/x: {backup_full: {schedule: '", " * * * *'}}}]}")
    yield (
        "a schedule of ranges",
        filled("1-59/1,", "web: {volumes: [{/x: {backup_full: {schedule: '", "1 * * * *'}}}]}"),
    )
    yield "a template of braces", filled("{{", "apptype: resource\nweb: {cmd: '", "'}")
    yield (
        "a template that multiplies",
        head + "apptype: resource\nweb: {cmd: '{{ \"a\" * 10 ** 10 }}', memory: '{{ 9 ** 9 ** 9 }}'}\n",
    )
    yield (
        "a template with a loop",
        head + "apptype: resource\nweb: {cmd: '{% for a in range(99999999) %}{{ a }}{% endfor %}'}\n",
    )
    yield "comments", filled("#\n")
    yield "blank lines", filled("\n")
    yield "spaces", filled(" ")
    yield "tabs", filled("\t")
    yield "carriage returns", filled("\r")
    yield "document marks", filled("---\n")
    yield "directives", ("%YAML 1.2\n" * (most // 10)) + head
    yield "tags", filled("!!str ", "web: ")
    yield "nothing", b""
    yield "zeros", b"\0" * MAX_BYTES
    yield "noise", random.Random(1).randbytes(MAX_BYTES)
    yield "UTF-16", head.encode("utf-16")
    yield "UTF-32", head.encode("utf-32")
    yield "half a character", head.encode() + b"\xc3"
    yield "a surrogate", head + 'web: {cmd: "\\ud800"}\n'
    yield "far too large", b"a: b\n" * 1_000_000


def documents(count: int, seed: int) -> Iterator[str]:
    """``count`` documents of every known key with values of every kind, by hypothesis."""
    keys = keys_known()
    scalar = st.one_of(
        st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=20), st.sampled_from(VALUES),
        st.sampled_from(keys), st.just("hello"), st.just("64m"), st.just("/x"),
    )  # fmt: skip
    value = st.recursive(
        scalar,
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(keys) | st.text(max_size=5), inner, max_size=5),
        max_leaves=12,
    )  # fmt: skip
    proc = st.dictionaries(st.sampled_from(keys), value, max_size=6)
    names = st.sampled_from(
        ("web", "worker", "oneshot", "web.x", "worker.y", "proc.z", "portal.p", "service.s", "portal", "web.")
    )
    made: list[Mapping[str, Any]] = []

    @hypothesis.settings(
        max_examples=count,
        database=None,
        deadline=None,
        derandomize=False,
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    @hypothesis.seed(seed)
    @hypothesis.given(
        st.dictionaries(st.sampled_from(keys), value, max_size=5),
        st.dictionaries(names, proc, max_size=3),
        st.booleans(),
    )
    def collect(top: dict[str, Any], procs: dict[str, Any], whole: bool) -> None:
        usual = {"appname": "hello", "build": {"base": "b"}} if whole else {}
        made.append({**usual, **top, **procs})

    collect()
    for document in made:
        yield yaml.safe_dump(document, allow_unicode=True)


def prove(count: int, seed: int, say: Callable[[str], None] = lambda _: None) -> Findings:
    """``count`` mutated manifests, a fifth as many generated ones, and all the expensive ones."""
    found = Findings()
    for kind, text in expensive():
        try_one(f"expensive, {kind}", text, found)
    say(f"{len(found.seconds)} expensive texts, the slowest {max(found.seconds):.2f} s")
    for raw in mutated(count, seed):
        try_one("mutated", raw, found)
    say(f"{count} mutated manifests")
    for made in documents(count // 5, seed):
        try_one("generated", made, found)
    return found
