"""Whatever comes in, reading a manifest ends, soon, with a manifest or with faults; and what it says survives being written out."""

from __future__ import annotations

import json
import time
from typing import Any

import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from lain_sdk.manifest import Manifest, ManifestInvalid, dump, load
from lain_sdk.manifest.document import TOP
from lain_sdk.manifest.proc_keys import COMMON

PROC_KEYS = [key.name for key in COMMON]
KEYS = [
    *TOP.names(), *PROC_KEYS, "web", "worker.x", "oneshot", "proc.y", "portal.p", "service.s", "web.a.b", "portal", "base", "script",
    "prepare", "keep", "copy", "src", "dest_base", "dockerfile", "args", "http", "tcp", "exec", "path", "services", "schedule", "expire",
    "backup_full", "dirs", "cmd", "options", "<<", "80", "9500:22/udp", "slack",
]  # fmt: skip
WORDS = [
    "yes", "no", "010", "22:30", "1e3", "~", "64m", "5m", "/", "/x", "a.b/c", "A=b", "k:v", "x", "resource", "web", "none", "80:tcp", "..",
    "* * * * *", "30d", "constraint:group==ssd", "{{ x }}", "{{ x | default(1) }}", "{{ x.y }}", "{% if", "hello", "start_first", "é",
    "a\nb",
]  # fmt: skip
scalars = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.sampled_from(WORDS), st.text(max_size=12))
trees = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(st.one_of(st.sampled_from(KEYS), st.text(max_size=6)), inner, max_size=5),
    ),
    max_leaves=25,
)
HEADS = ["", "appname: a\nbuild: {base: x}\n", "appname: a\nbuild: {base: x}\napptype: resource\n"]
documents = st.dictionaries(st.sampled_from(KEYS), trees, max_size=8)


def judged(text: str | bytes) -> Manifest | None:
    """The manifest, or None after checking that the faults are fit to be shown."""
    began = time.process_time()
    try:
        return load(text)
    except ManifestInvalid as error:
        assert error.faults and all(
            fault.message and fault.path and fault.code in fault.CODES for fault in error.faults
        )
        assert all(fault.line >= 0 and fault.column >= 0 and "\n" not in str(fault) for fault in error.faults)
        json.dumps(error.to_document()).encode()
        return None
    finally:
        assert time.process_time() - began < 1.0


@given(text=st.one_of(st.text(max_size=400), st.binary(max_size=400)))
@settings(max_examples=300, deadline=None)
def test_any_text_is_judged(text: str | bytes) -> None:
    judged(text)


@given(text=st.text(alphabet="ab:-[]{}&*!|>'\"%@`#?,<~ \n\t0189\\", max_size=120))
@settings(max_examples=500, deadline=None)
def test_any_yaml_like_text_is_judged(text: str) -> None:
    judged(text)


@given(
    document=documents,
    head=st.sampled_from(HEADS),
)
@settings(max_examples=400, deadline=None)
def test_any_tree_is_judged(document: dict[str, Any], head: str) -> None:
    body = yaml.safe_dump(document, allow_unicode=True) if document else ""
    manifest = judged(head + body)
    if manifest is not None and manifest.apptype != "resource":
        assert load(dump(manifest)) == manifest


words = st.text(alphabet="abcdefgh", min_size=1, max_size=6)
paths = st.builds("/".join, st.lists(words, min_size=1, max_size=3))
volumes = st.lists(st.one_of(paths, paths.map(lambda path: "/" + path)), max_size=3)
probes = st.one_of(
    st.builds(lambda path: {"http": "/" + path}, paths),
    st.builds(lambda port: {"tcp": port, "interval_seconds": 2.5}, st.integers(1, 65535)),
    st.builds(lambda line: {"exec": line, "failures": 7}, st.lists(words, min_size=1, max_size=3)),
)
texts = st.text(alphabet=st.characters(exclude_categories=["C", "Z"]), max_size=10)
good_procs = st.fixed_dictionaries(
    {},
    optional={
        "cmd": st.one_of(st.none(), st.lists(texts, max_size=3)),
        "num_instances": st.integers(0, 1000),
        "cpu": st.integers(0, 8),
        "memory": st.builds(lambda size, unit: f"{size}{unit}", st.integers(6, 500), st.sampled_from("mMgG")),
        "port": st.integers(1, 65535),
        "env": st.dictionaries(words, texts, max_size=3),
        "labels": st.dictionaries(words, words, max_size=3),
        "volumes": volumes,
        "persistent_dirs": volumes,
        "logs": st.lists(paths, max_size=3),
        "secret_files": st.lists(paths, max_size=3),
        "setup_time": st.integers(0, 300),
        "min_ready_seconds": st.integers(0, 300),
        "kill_timeout": st.integers(1, 300),
        "drain_seconds": st.integers(0, 300),
        "liveness": probes.filter(lambda probe: "http" not in probe),
        "max_surge": st.integers(1, 100),
        "read_only": st.booleans(),
        "stateful": st.booleans(),
        "filters": st.one_of(st.just([]), st.just(["affinity:app!=~x"]), st.just(["constraint:group==ssd"])),
        "ports": st.dictionaries(st.integers(9500, 10000).map(str), st.none(), max_size=2),
    },
)


@given(proc=good_procs, kind=st.sampled_from(["web", "worker", "oneshot", "proc.x", "worker.y"]))
@settings(max_examples=200, deadline=None)
def test_good_manifests_are_taken_survive_a_round_trip_and_become_pods(proc: dict[str, Any], kind: str) -> None:
    text = json.dumps({"appname": "hello", "build": {"base": "x"}, kind: proc}, ensure_ascii=False)
    manifest = load(text)
    assert load(dump(manifest)) == manifest and dump(load(dump(manifest))) == dump(manifest)
    ((name, read),) = manifest.procs.items()
    assert read.num_instances == (1 if proc.get("num_instances") is None else proc["num_instances"])
    paths = [volume.path for volume in read.volumes]
    assert len(set(paths)) == len(paths) and paths[-1] == "/lain/logs"
    domains = ["lain.localhost"]
    (wanted,) = manifest.desired(
        domains=domains, images={name: "hello@sha256:0"}, release=1, env={}, meta_version="1-a"
    )
    assert wanted.routes == manifest.mountpoints(name, domains) and bool(wanted.routes) == (read.type == "web")
    assert wanted.template.memory_bytes >= 6 << 20 and 0 <= wanted.min_ready_seconds <= 300
