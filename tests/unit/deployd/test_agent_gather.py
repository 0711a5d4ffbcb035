"""Reading the kernel's files and two looks at a clock: what is there, what is not, and what cannot be read."""

from __future__ import annotations

from pathlib import Path

import pytest

from lain_deployd.agent.facts import Drop
from lain_deployd.agent.gather import ENGINE_DATA, Gatherer, Kernel, Sources
from lain_deployd.testing import FakeEngine
from lain_shared import conditions as words
from lain_shared import keys
from lain_shared.model.node import Node
from lain_shared.records import Records
from lain_shared.testing import MemoryStore

FILES = {
    "meminfo": "MemTotal:       24684084 kB\nMemAvailable:   22086908 kB\nHugePages_Total:       0\n",
    "pressure/memory": "some avg10=1.00 avg60=2.00 avg300=3.00 total=9\nfull avg10=0.10 avg60=0.20 avg300=12.50 total=5\n",
    "loadavg": "15.05 4.77 2.52 33/1213 114\n",
    "sys/kernel/pid_max": "4194304\n",
    "sys/kernel/threads-max": "192730\n",
    "sys/fs/file-nr": "3621\t0\t2466170\n",
    "sys/net/netfilter/nf_conntrack_count": "39\n",
    "sys/net/netfilter/nf_conntrack_max": "262144\n",
    "sys/net/ipv4/ip_forward": "1\n",
    "sys/net/bridge/bridge-nf-call-iptables": "0\n",
    "net/route": "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\nens3\t00000000\t0100000A\t3\t0\t0\t0\t00000000\n",
}


@pytest.fixture
def proc(tmp_path: Path) -> Path:
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def test_the_kernels_files_are_read_as_numbers(proc: Path) -> None:
    unread: dict[str, str] = {}
    kernel = Kernel(proc, unread)
    assert kernel.memory() == {"MemTotal": 24684084 * 1024, "MemAvailable": 22086908 * 1024}
    assert kernel.memory_stalled() == 12.5
    assert kernel.tasks() == (1213, 192730)
    assert kernel.open_files() == (3621, 2466170)
    assert kernel.pair("nf_conntrack") == (39, 262144)
    assert kernel.switch(words.IP_FORWARD_OFF, "sys/net/ipv4/ip_forward") is True
    assert kernel.switch(words.BRIDGE_FILTER_OFF, "sys/net/bridge/bridge-nf-call-iptables") is False
    assert kernel.uplink() == "ens3"
    assert unread == {}


def test_what_is_not_there_is_not_known_and_a_module_that_is_not_loaded_is_off(tmp_path: Path) -> None:
    unread: dict[str, str] = {}
    kernel = Kernel(tmp_path, unread)
    assert kernel.memory() == {} and kernel.memory_stalled() is None
    assert kernel.tasks() == (None, None) and kernel.open_files() == (None, None)
    assert kernel.switch(words.BRIDGE_FILTER_OFF, "sys/net/bridge/bridge-nf-call-iptables") is False
    assert {"memory", words.PID_PRESSURE, words.OPEN_FILES_PRESSURE} <= unread.keys()


async def nobody_comes_in() -> bytes:
    """A packet filter that takes no new connection from another node."""
    return b'{"nftables": [{"chain": {"name": "FORWARD", "policy": "drop"}}]}'


def gatherer(
    proc: Path, clock: list[float], passed: list[float], store: MemoryStore | None = None, block: str = ""
) -> Gatherer:
    nodes = Records(store or MemoryStore(), keys.NODES, Node)
    return Gatherer(
        Sources(proc=proc, places=lambda: {"volumes": proc, ENGINE_DATA: proc}, rules=nobody_comes_in),
        FakeEngine(), block=lambda: block, nodes=nodes, node="n1", clock=lambda: clock[0], passed=lambda: passed[0],
    )  # fmt: skip


async def test_a_look_needs_nobody_to_answer(proc: Path) -> None:
    found = await gatherer(proc, [100.0], [5.0]).look()
    assert found.memory_available_bytes == 22086908 * 1024 and found.bridge_filter is False
    assert [one.holds for one in found.file_systems] == ["volumes", ENGINE_DATA]
    assert found.containers == () and found.registry is None and found.etcd == () and found.drops is None


async def test_an_engine_that_is_away_leaves_the_rest_to_be_read(proc: Path) -> None:
    one = gatherer(proc, [100.0], [5.0])
    engine = one._engine
    assert isinstance(engine, FakeEngine)
    with engine.outage():
        found = await one.look()
    assert found.containers is None and "containers" in found.unread and found.tasks == 1213


async def test_a_clock_that_was_set_between_two_looks_is_noticed(proc: Path) -> None:
    clock, passed = [1000.0], [50.0]
    one = gatherer(proc, clock, passed)
    assert (await one.look()).jumps == ()
    clock[0], passed[0] = 1030.3, 80.0  # a third of a second in half a minute: steered, not set
    assert (await one.look()).jumps == ()
    clock[0], passed[0] = 960.3, 110.0
    (jump,) = (await one.look()).jumps
    assert (jump.at, round(jump.seconds)) == (960.3, -100)


async def test_the_other_nodes_are_those_that_were_there_when_the_store_last_answered(proc: Path) -> None:
    store = MemoryStore()
    for name, address in (("n1", "10.0.0.1"), ("n2", "10.0.0.2")):
        await Records(store, keys.NODES, Node).put(Node(name, address), name)
    one = gatherer(proc, [100.0], [5.0], store, block="172.20.1.0/24")
    kept_out = (Drop("from node n2 to pods", "FORWARD", "policy drop", policy=True),)
    assert (await one.look()).drops == kept_out
    with store.outage():
        assert (await one.look()).drops == kept_out
