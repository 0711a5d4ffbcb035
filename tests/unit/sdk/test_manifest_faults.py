"""Faults: all of them at once, each at its place, with what was found, what is allowed, and the way out. And YAML's traps."""

from __future__ import annotations

import json
import time

import pytest

from lain_sdk.manifest import Fault, Manifest, ManifestInvalid, load
from lain_sdk.manifest.faults import MAX_FAULTS
from lain_sdk.manifest.source import MAX_BYTES
from lain_shared.errors import Invalid

GOOD = "appname: hello\nbuild: {base: x}\n"
NINE = """\
appname: Hello
buidl: {base: x}
build: {script: [echo a: b]}
web:
  memory: 128
  https_only: yes
  prot: 80
  port: 80
  port: 81
web.admin: {cmd: 'echo "x'}
"""
LEVELS = "bcdefghij"
ALIAS_BOMB = "a: &a [x,x,x,x,x,x,x,x]\n" + "".join(
    f"{one}: &{one} [{','.join(['*' + chr(ord(one) - 1)] * 9)}]\n" for one in LEVELS
)


def faults_of(text: str | bytes) -> tuple[Fault, ...]:
    with pytest.raises(ManifestInvalid) as caught:
        load(text)
    return caught.value.faults


def only(text: str | bytes) -> Fault:
    (fault,) = faults_of(text)
    return fault


def test_nine_faults_are_all_told_with_their_places() -> None:
    assert [(fault.line, fault.column, fault.code, fault.path) for fault in faults_of(NINE)] == [
        (1, 10, "bad_value", "appname"),
        (2, 1, "unknown_key", "buidl"),
        (3, 8, "missing_key", "build.base"),
        (3, 18, "wrong_type", "build.script[0]"),
        (5, 11, "bad_value", "web.memory"),
        (6, 15, "ambiguous", "web.https_only"),
        (7, 3, "unknown_key", "web.prot"),
        (9, 3, "duplicate_key", "web.port"),
        (10, 12, "missing_key", "web.admin.mountpoint"),
        (10, 18, "bad_value", "web.admin.cmd"),
    ]


def test_a_fault_says_what_was_found_what_is_allowed_and_what_was_meant() -> None:
    by_path = {fault.path: fault for fault in faults_of(NINE)}
    assert by_path["buidl"].nearest == "build"
    assert by_path["web.prot"].nearest == "port"
    assert by_path["web.memory"].found == "the number 128" and "128m" in by_path["web.memory"].fix
    assert by_path["web.https_only"].fix == "write true"
    assert by_path["web.port"].found == "first on line 8"
    assert by_path["appname"].fix == "write hello"
    assert "quote" in by_path["build.script[0]"].fix
    assert str(by_path["buidl"]).startswith("lain.yaml:2:1: buidl: a manifest has no such key")


def test_the_error_is_an_invalid_that_json_can_carry() -> None:
    with pytest.raises(Invalid) as caught:
        load(NINE, file="shop/lain.yaml")
    document = json.loads(json.dumps(caught.value.to_document()))["error"]
    assert document["code"] == "manifest_invalid" and document["message"] == "shop/lain.yaml has 10 faults"
    assert document["evidence"]["faults"][1] | {"allowed": ""} == {
        "file": "shop/lain.yaml", "line": 2, "column": 1, "path": "buidl", "code": "unknown_key", "message": "a manifest has no such key",
        "found": 'the text "buidl"', "allowed": "", "nearest": "build", "fix": "",
    }  # fmt: skip
    assert all(code in Fault.CODES for code in {fault["code"] for fault in document["evidence"]["faults"]})


@pytest.mark.parametrize(
    ("line", "path", "nearest", "fix"),
    [
        ("wbe: {}", "wbe", "web", ""),
        ("wroker.x: {}", "wroker.x", "worker.x", ""),
        ("memory: 32m", "memory", "", "memory is a key of a proc section (web, worker, …): move it there"),
        ("script: []", "script", "", "script is a key of build: move it there"),
        ("useServices: {}", "useServices", "use_services", ""),
        ("web: {numInstances: 1}", "web.numInstances", "num_instances", ""),
        ("web: {mountpoints: [a.b]}", "web.mountpoints", "mountpoint", ""),
        ("web: {readiness: {htpp: /}}", "web.readiness.htpp", "http", ""),
    ],
)
def test_unknown_keys_are_guessed(line: str, path: str, nearest: str, fix: str) -> None:
    fault = next(fault for fault in faults_of(GOOD + line) if fault.code == "unknown_key")
    assert (fault.path, fault.nearest, fault.fix) == (path, nearest, fix)


@pytest.mark.parametrize("word", ["yes", "no", "on", "off", "Yes", "NO", "y", "n"])
def test_words_that_yaml_1_1_took_for_booleans(word: str) -> None:
    fault = only(GOOD + f"web: {{https_only: {word}}}")
    assert fault.code == "ambiguous" and fault.fix in ("write true", "write false")
    assert load(GOOD + f"web: {{cmd: [{word}], env: {{{word}: {word}}}}}").procs["web"].cmd == (word,)


@pytest.mark.parametrize(
    ("value", "code"),
    [("010", "ambiguous"), ("08", "ambiguous"), ("1_0", "wrong_type"), ("1:30", "wrong_type"), ("'5'", "wrong_type"), ("5.0", "wrong_type"),
     ("true", "wrong_type"), ("[5]", "wrong_type"), ("{a: 5}", "wrong_type"), ("-1", "bad_value"), ("9" * 200, "wrong_type")],
)  # fmt: skip
def test_numbers_that_mean_different_things(value: str, code: str) -> None:
    fault = only(GOOD + f"web: {{cpu: {value}}}")
    assert (fault.code, fault.path) == (code, "web.cpu")


def test_numbers_in_the_other_notations_of_yaml_1_2() -> None:
    assert load(GOOD + "web: {cpu: 0x8}").procs["web"].cpu == 8
    assert load(GOOD + "web: {cpu: 0o7}").procs["web"].cpu == 7


def test_texts_keep_what_was_written() -> None:
    proc = load(GOOD + "web: {env: {A: 010, B: 1.10, C: true, D: 1e3, E: 22:30}, cmd: [sleep, 1.10]}").procs["web"]
    assert dict(proc.env) == {"A": "010", "B": "1.10", "C": "true", "D": "1e3", "E": "22:30"}
    assert proc.cmd == ("sleep", "1.10")


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("", "missing_key"),
        ("# nothing\n", "missing_key"),
        ("~", "missing_key"),
        ("hello", "wrong_type"),
        ("- a", "wrong_type"),
        ("a: b: c", "yaml"),
        ("a: [", "yaml"),
        ("\ta: b", "yaml"),
        ("a: *nowhere", "yaml"),
        ("a: &a [*a]", "yaml"),
        ("a: @x", "yaml"),
        ("a: \x00", "yaml"),
        ("a: \ud800", "yaml"),
        (b"a: \xff", "yaml"),
        ("appname: a\nbuild: {base: x}\n---\nappname: b\nbuild: {base: x}", "yaml"),
        ("appname: !!python/object/apply:os.system [ls]\nbuild: {base: x}", "yaml"),
        ("appname: !x a\nbuild: {base: x}", "yaml"),
        ("? [a]\n: b\nappname: a\nbuild: {base: x}", "wrong_type"),
        ("[" * 300_000, "too_big"),
        ("[" * 200_000, "too_big"),
        ("a: " + "x" * MAX_BYTES, "too_big"),
        (ALIAS_BOMB, "too_big"),
    ],
    ids=range(22),
)  # fmt: skip
def test_documents_that_are_no_manifest(text: str | bytes, code: str) -> None:
    assert faults_of(text)[0].code == code


def test_core_tags_anchors_and_merges_are_taken() -> None:
    manifest = load(
        GOOD
        + "web: &w {cmd: x, memory: 64m}\nworker.a: {<<: *w, cmd: y}\nworker.b: {<<: [*w]}\nworker.c: {user: !!str 1000}\n"
    )
    procs = manifest.procs
    assert (procs["a"].cmd, procs["a"].memory_bytes) == (("y",), 64 * 1024**2)
    assert procs["b"].cmd == ("x",) and procs["c"].user == "1000"
    assert only(GOOD + "web: {<<: 5}").code == "wrong_type"


def test_a_byte_order_mark_and_bytes_are_taken() -> None:
    assert load("\ufeff" + GOOD).appname == "hello" == load(GOOD.encode()).appname


def test_too_many_faults_are_counted_not_kept() -> None:
    with pytest.raises(ManifestInvalid) as caught:
        load("".join(f"k{number}: 1\n" for number in range(3 * MAX_FAULTS)))
    assert len(caught.value.faults) == MAX_FAULTS and f"has {3 * MAX_FAULTS + 2} faults" in caught.value.message


@pytest.mark.parametrize(
    ("section", "path"),
    [
        ("web: []", "web"),
        ("web: {env: 5}", "web.env"),
        ("web: {env: {A: }}", "web.env.A"),
        ("web: {env: [A]}", "web.env[0]"),
        ("web: {env: ['1A=x']}", "web.env[0]"),
        ("web: {env: [A=1, A=2]}", "web.env[1]"),
        ("web: {env: {LAIN_DOMAIN: x}}", "web.env"),
        ("web: {labels: {lain.app: x}}", "web.labels"),
        ("web: {ports: 5}", "web.ports"),
        ("web: {volumes: data}", "web.volumes"),
        ("web: {volumes: [{a: , b: }]}", "web.volumes[0]"),
        ("web: {cmd: {a: b}}", "web.cmd"),
        ("web: {cmd: ['a', [b]]}", "web.cmd[1]"),
        ("web: {workdir: app}", "web.workdir"),
        ("web: {image: 'registry.x.org/a:1'}", "web.image"),
        ("web: {image: 'A B'}", "web.image"),
        ("web: {user: 'a b'}", "web.user"),
        ("web: {mountpoint: a.b}", "web.mountpoint"),
        ("web: {mountpoint: ['http://a.b']}", "web.mountpoint[0]"),
        ("web: {mountpoint: ['a.b:80']}", "web.mountpoint[0]"),
        ("web: {mountpoint: ['a_b']}", "web.mountpoint[0]"),
        ("web: {mountpoint: ['a.b/../c']}", "web.mountpoint[0]"),
        ("web: {mountpoint: ['a.b//c']}", "web.mountpoint[0]"),
        ("web: {mountpoint: ['a.b/{x}']}", "web.mountpoint[0]"),
        ("web.x: {mountpoint: [/]}", "web.x.mountpoint"),
        ("worker: {mountpoint: [a.b]}", "worker.mountpoint"),
        ("worker: {https_only: true}", "worker.https_only"),
        ("worker: {healthcheck: /x}", "worker.healthcheck"),
        ("worker: {proxy: {sticky: true}}", "worker.proxy"),
        ("worker: {service_name: x}", "worker.service_name"),
        ("worker: {type: web}", "worker.type"),
        ("proc.x: {type: cron}", "proc.x.type"),
        ("service.x: {type: portal, portal: {}}", "service.x.type"),
        ("service.x: {portal: {service_name: y}}", "service.x.portal.service_name"),
        ("portal: {}", "portal"),
        ("proc: {}", "proc"),
        ("service: {}", "service"),
        ("web.a.b: {}", "web.a.b"),
        ("web.: {}", "web."),
        ("web.A: {}", "web.A"),
        ("worker.a: {ports: {9500: }}\nworker.b: {ports: {9500: }}", "worker.b"),
        ("web: {mountpoint: [a.b]}\nweb.c: {mountpoint: [A.B/]}", "web.c"),
        ("portal.a: {service_name: s}\nportal.b: {service_name: s}", "portal.b"),
        ("use_services: {a: [s]}\nuse_resources: {b: {services: [s]}}", "use_resources"),
        ("use_services: {a: [s], b: [s]}", "use_services"),
        ("use_services: {a: s}", "use_services.a"),
        ("use_resources: {b: {size: 1}}", "use_resources.b.services"),
        ("notify: {slak: x}", "notify.slak"),
        ("image: x:1", "build"),
        ("apptype: service", "apptype"),
        ("release: {copy: [{dest: x}]}", "release.copy[0].src"),
        ("test: {script: go test}", "test.script"),
    ],
)
def test_each_bad_value_is_found_where_it_is(section: str, path: str) -> None:
    assert [fault.path for fault in faults_of(GOOD + section)] == [path]


@pytest.mark.parametrize(
    "text",
    [
        "apptype: resource\nweb:\n  env:\n" + "".join(f'  - "A{i}={"{{a|d(1)}}" * 110}"\n' for i in range(199)),
        "worker:\n  cmd: &c '" + "a " * 100_000 + "'\n" + "".join(f"worker.x{i}: {{cmd: *c}}\n" for i in range(99)),
        "".join(f"worker.x{i}: {{cmd: [a: b], mmory: 2}}\n" for i in range(2500)),
        "{" + "a: b, " * 40_000 + "}",
        "web: {mountpoint: [" + "a.b/c, " * 9_000 + "]}",
    ],
    ids=["templates", "aliases", "faults", "duplicates", "mountpoints"],
)
def test_hostile_documents_cost_little(text: str) -> None:
    began = time.process_time()
    faults_of(GOOD + text if not text.startswith("{") else text)
    assert time.process_time() - began < 1.0


def test_a_valid_manifest_is_immutable_and_fresh() -> None:
    one, two = load(GOOD + "web: {}"), load(GOOD + "web: {}")
    assert one == two and one.procs["web"] is not two.procs["web"] and isinstance(one, Manifest)
    with pytest.raises(TypeError):
        one.procs["x"] = one.procs["web"]  # type: ignore[index]
    with pytest.raises(AttributeError):
        one.procs["web"].cpu = 3  # type: ignore[misc]
