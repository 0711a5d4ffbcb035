"""etcd: is it there, does it take writes, and is what it holds ours. Pure."""

from __future__ import annotations

from lain_cli.doctor.report import PROBLEM, WARNING, Check, Site, ok, skipped, steps
from lain_cli.doctor.sight import Sight
from lain_cli.local.platform import ETC, ETCD_QUOTA_BYTES
from lain_cli.render import count, size
from lain_shared.errors import LainError
from lain_shared.platform_view import EtcdMemberView

VERSION_IMAGE = "$(docker inspect -f '{{.Config.Image}}' lain-etcd)"
"""The image of the node's own etcd, whatever its version."""
AWAY = "etcd_away"
WITHOUT = "what runs runs on and what is routed is routed; nothing can be changed, and nothing that breaks is replaced"
HIGH_SHARE = 0.5


def etcdctl(arguments: str) -> str:
    """etcd's own command line on a node that has a member, as etcd's root."""
    return f"{_etcdctl()} {arguments}"


def _etcdctl() -> str:
    return (
        f"docker run --rm --user 0 --network host -v {ETC}/tls/root:/tls:ro --entrypoint etcdctl {VERSION_IMAGE} "
        "--endpoints https://127.0.0.1:2379 --cacert /tls/ca.pem --cert /tls/cert.pem --key /tls/key.pem"
    )


def make_room() -> str:
    """Forget history, give the space back, take writes again."""
    revision = "$E endpoint status -w json | grep -oE '\"revision\":[0-9]+' | grep -oE '[0-9]+'"
    return f'E="{_etcdctl()}"; $E compact $({revision}); $E defrag; $E alarm disarm'


def check_etcd(sight: Sight, site: Site) -> Check:
    """Its members as the controller sees them, or the console if the controller does not answer."""
    platform = sight.platform
    if platform is None or not platform.etcd:
        return _by_errors(sight, site)
    members, asked_by = platform.etcd, platform.daemon
    away = [member for member in members if member.error]
    alive = [member for member in members if not member.error]
    evidence = tuple(f"{member.endpoint}: {member.error} (asked by {asked_by})" for member in away)
    start = "docker start lain-etcd"
    if len(alive) <= len(members) // 2:
        leaderless = bool(away) and all("no leader" in member.error for member in away)
        code, found = ("etcd_no_leader", "etcd has no leader") if leaderless else ("etcd_down", "etcd does not answer")
        told = f"{found}: {len(alive)} of {len(members)} members well"
        look = site.on(site.node, "docker logs --tail 50 lain-etcd")
        next = steps(site.on(site.node, start), f"if it ends again: {look}")
        return Check("etcd", PROBLEM, told, code, WITHOUT, evidence, next, start, site.node, "etcd")
    if (check := _alarms(alive, site)) is not None:
        return check
    if away:
        found = f"{count(len(away), 'member')} of etcd {'does' if len(away) == 1 else 'do'} not answer"
        why, next = "it goes on with the others, and has fewer to lose", f"on the member's node: {start}"
        return Check("etcd", WARNING, found, "etcd_member_down", why, evidence, next, start, part="etcd")
    largest = max(alive, key=lambda member: member.db_bytes)
    if largest.db_bytes > HIGH_SHARE * ETCD_QUOTA_BYTES:
        return Check(
            "etcd", WARNING, f"etcd holds {size(largest.db_bytes)} of the {size(ETCD_QUOTA_BYTES)} it may", "etcd_large",
            "above that it takes no writes at all", (f"{size(largest.db_used_bytes)} of it are in use",),
            site.on(site.node, make_room()), make_room(), site.node, "etcd",
        )  # fmt: skip
    told = f"{len(alive)} of {len(members)} members, version {largest.version}, {size(largest.db_bytes)}"
    return ok("etcd", told)


def _alarms(alive: list[EtcdMemberView], site: Site) -> Check | None:
    alarms = [f"{member.endpoint}: {alarm.strip()}" for member in alive for alarm in member.alarms]
    if not alarms:
        return None
    held = max(member.db_bytes for member in alive)
    if any("NOSPACE" in alarm for alarm in alarms):
        return Check(
            "etcd", PROBLEM, "etcd is full and takes no writes (alarm NOSPACE)", "etcd_nospace", WITHOUT,
            (*alarms, f"its database is {size(held)}"),
            steps(site.on(site.node, make_room()), "find out what filled it: history that nobody compacted, or a program that writes much"),
            make_room(), site.node, "etcd",
        )  # fmt: skip
    return Check(
        "etcd", PROBLEM, "etcd raised an alarm", "etcd_alarm",
        "a member that is corrupt must be replaced by one that copies the others", tuple(alarms),
        "see https://etcd.io/docs/latest/op-guide/recovery/", node=site.node, part="etcd",
    )  # fmt: skip


def _by_errors(sight: Sight, site: Site) -> Check:
    """Nobody could tell of its members: what the APIs said instead."""
    for error in (sight.cluster, sight.apps, sight.switches, sight.who):
        if isinstance(error, LainError) and error.error_code == AWAY:
            start = "docker start lain-etcd"
            evidence = tuple(part for part in (error.message, error.why) if part)
            return Check(
                "etcd", PROBLEM, "etcd does not answer", "etcd_down", WITHOUT, evidence,
                site.on(site.node, start), start, site.node, "etcd",
            )  # fmt: skip
    return skipped("etcd", "no API could be asked about it")


def check_records(sight: Sight, site: Site) -> list[Check]:
    """Keys that nobody can read: foreign, damaged, or a newer LAIN's."""
    told: dict[str, str] = {}
    for one in (sight.by_deployd, sight.by_console):
        if one is not None and not isinstance(one, LainError):
            told.update(one.unreadable)
    if not told:
        return []
    keys = sorted(told)
    newer = all("newer LAIN" in told[key] for key in keys)
    look = etcdctl(f"get {keys[0]}")
    remove = etcdctl(f"del {keys[0]}")
    then = "upgrade the daemons" if newer else f"if nobody's program wrote it on purpose: {site.on(site.node, remove)}"
    return [
        Check(
            "records", PROBLEM, f"{count(len(keys), 'record')} in etcd cannot be read", "record_unreadable",
            "what it concerns is left as it is: an app with such a record is frozen, and no address is given out while one may name it",
            tuple(f"{key}: {told[key]}" for key in keys), steps(site.on(site.node, look), then), "" if newer else remove, site.node,
        )
    ]  # fmt: skip
