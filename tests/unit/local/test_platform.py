"""The table of parts: what every container of the platform may and may not do; compose.yaml says the same."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from lain_cli.local.compose import render
from lain_cli.local.platform import Part, Site, etcd_flags, parts, run_argv, spec_of
from lain_deployd.agent.limits import NO_LEVEL_WEIGHT

PARTS = parts(Site("n1", "10.77.0.11"))
BY_NAME = {part.name: part for part in PARTS}
ROOT = Path(__file__).resolve().parents[3]


def test_compose_yaml_is_what_the_table_says() -> None:
    assert (ROOT / "deploy/compose.yaml").read_text() == render(), "run `make compose`"


@pytest.mark.parametrize("part", PARTS, ids=lambda part: part.name)
def test_a_part_has_no_more_than_it_needs(part: Part) -> None:
    argv = run_argv(part, "image", "sha256:0")
    assert "--privileged" not in argv and "--read-only" in argv
    assert argv[argv.index("--cap-drop") + 1] == "ALL"
    assert "no-new-privileges" in argv
    if part.name in ("agent", "nginx"):
        assert part.user == 0
    else:
        assert part.user > 0 and part.capabilities == ()


def test_only_the_agent_sees_docker() -> None:
    seen = [part.name for part in PARTS if any(source.startswith(("/run", "/var/run")) for source, _, _ in part.mounts)]
    assert seen == ["agent"]


def test_each_sees_its_own_certificate_and_secrets_alone_and_cannot_change_them() -> None:
    for part in PARTS:
        for source, _, read_only in part.mounts:
            if source.startswith("/etc/lain/"):
                assert read_only and source.split("/")[4:] in ([part.name], ["agent@n1"]), (part.name, source)
    owners = [source for part in PARTS for source, _, _ in part.mounts if source.startswith("/etc/lain/")]
    assert len(owners) == len(set(owners))
    assert not any("/ca" in source or "/root" in source or "/client" in source for source in owners)


def test_compose_takes_the_same_switches() -> None:
    services = yaml.safe_load(render())["services"]
    for part in PARTS:
        service = services[part.name]
        assert service["read_only"] and service["cap_drop"] == ["ALL"] and service["restart"] == "always"
        assert service.get("cap_add", []) == list(part.capabilities)
    assert services["files"]["restart"] == services["seed"]["restart"] == "no"


def test_every_daemon_outweighs_pods_and_etcd_outweighs_all() -> None:
    for part in PARTS:
        argv = run_argv(part, "image", "sha256:0")
        assert argv[argv.index("--cpu-shares") + 1] == str(part.cpu_weight)
        assert part.cpu_weight >= 1024 > NO_LEVEL_WEIGHT
        assert yaml.safe_load(render())["services"][part.name]["cpu_shares"] == part.cpu_weight
    assert max(PARTS, key=lambda part: part.cpu_weight).name == "etcd"


def test_the_spec_changes_with_the_image_and_with_any_setting() -> None:
    console = BY_NAME["console"]
    first = spec_of(run_argv(console, "lain/console:1", "sha256:a"))
    assert first == spec_of(run_argv(console, "lain/console:1", "sha256:a"))
    moved = {part.name: part for part in parts(Site("n1", "10.77.0.12"))}["console"]
    assert (
        len(
            {
                first,
                spec_of(run_argv(console, "lain/console:1", "sha256:b")),
                spec_of(run_argv(moved, "lain/console:1", "sha256:a")),
            }
        )
        == 3
    )


def test_etcd_is_started_as_the_design_asks_both_ways() -> None:
    wanted = {
        "--max-txn-ops=1024", "--heartbeat-interval=50", "--election-timeout=500",
        "--auto-compaction-mode=periodic", "--auto-compaction-retention=10m", "--quota-backend-bytes=2147483648",
    }  # fmt: skip
    flags = set(etcd_flags(Site("n1", "10.77.0.11")))
    assert wanted <= flags <= set(run_argv(BY_NAME["etcd"], "image", "sha256:0"))
    assert wanted <= set(yaml.safe_load((ROOT / "deploy/compose.yaml").read_text())["services"]["etcd"]["command"])
