"""What can be wrong with a node, in words: each type of ``Condition``, why it matters, and what to do about it.

The agent finds them, ``lainctl doctor``, ``lainctl node inspect`` and ``lain explain`` tell them: one table, so that all say the same.
Commands are for the node itself. In those of a local cluster the Engine is runit's, elsewhere systemd's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from lain_shared.model.node import Condition, ConditionStatus

ENGINE_UNREACHABLE = "EngineUnreachable"
LIVE_RESTORE_OFF = "LiveRestoreOff"
PART_DOWN = "PartDown"
STRANGERS = "StrangersOnPodNetwork"
DISK_PRESSURE = "DiskPressure"
INODE_PRESSURE = "InodePressure"
DISK_READ_ONLY = "DiskReadOnly"
MEMORY_PRESSURE = "MemoryPressure"
PID_PRESSURE = "PIDPressure"
OPEN_FILES_PRESSURE = "OpenFilesPressure"
CONNTRACK_PRESSURE = "ConntrackPressure"
CLOCK_SKEWED = "ClockSkewed"
CLOCK_JUMPED = "ClockJumped"
REGISTRY_UNAVAILABLE = "RegistryUnavailable"
ETCD_MEMBER_UNREACHABLE = "EtcdMemberUnreachable"
CERTIFICATE_EXPIRING = "CertificateExpiring"
IP_FORWARD_OFF = "IPForwardOff"
BRIDGE_FILTER_OFF = "BridgeFilterOff"
POD_TRAFFIC_DROPPED = "PodTrafficDropped"
POD_NETWORK_MISSING = "PodNetworkMissing"
ADDRESSES_SHORT = "AddressesShort"
VOLUME_MISSING = "VolumeMissing"
RECORDS_UNREADABLE = "RecordsUnreadable"

RENEW = "docker compose -p lain run --rm files; docker restart lain-agent"
DOCKERD = "/etc/lain-node/services/dockerd"


@dataclass(frozen=True, slots=True)
class Advice:
    """``what`` completes "node n1: …". ``do``: a command on the node; ``do_local``: in a local cluster, where it differs.

    ``before`` and ``then``: what a person does first, and with what the command shows. ``urgent``: something does not work; else it is only
    about to, or could hurt.
    """

    what: str
    why: str
    do: str
    do_local: str = ""
    before: str = ""
    then: str = ""
    urgent: bool = True


ADVICE: Mapping[str, Advice] = {
    ENGINE_UNREACHABLE: Advice(
        "its Docker Engine does not answer",
        "what runs there runs on; nothing can be started, stopped or replaced",
        "systemctl restart docker; journalctl -u docker -n 50",
        f"sv restart {DOCKERD}",
    ),
    LIVE_RESTORE_OFF: Advice(
        "its Docker Engine runs without live-restore",
        "the Engine's next restart or crash would end every container of the node",
        "systemctl reload docker",
        f"sv hup {DOCKERD}",
        before='set "live-restore": true in /etc/docker/daemon.json',
        urgent=False,
    ),
    PART_DOWN: Advice(
        "a part of LAIN on it does not run",
        "its container is there and is not up; nothing but a person stops a part for good",
        "docker logs --tail 50 {names}; docker start {names}",
    ),
    f"{PART_DOWN}/Paused": Advice(
        "a part of LAIN on it is paused",
        "its process is frozen: it holds its connections and answers nothing",
        "docker unpause {names}",
    ),
    STRANGERS: Advice(
        "a container that is no pod of this node is on its pod network, or says it is one",
        "nobody looks after it; it may hold an address that a pod is to get, and counts for nothing in LAIN",
        "docker inspect {names}",
        then="if nobody needs it: docker rm -f {names}",
        urgent=False,
    ),
    DISK_PRESSURE: Advice(
        "its disk is filling up",
        "images that nothing runs or may go back to were removed and it was not enough; full, it takes etcd, logs and volumes with it",
        "docker system df; du -xh --max-depth=3 /var/lib | sort -h | tail -n 20",
        urgent=False,
    ),
    f"{DISK_PRESSURE}/Full": Advice(
        "its disk is full",
        "nothing can be written: no image pulled, no pod started, no log kept; etcd stops when it is its disk",
        "docker system df; du -xh --max-depth=3 /var/lib | sort -h | tail -n 20",
    ),
    INODE_PRESSURE: Advice(
        "its disk has no inodes left",
        "no file can be made though bytes are free: very many small files somewhere",
        "df -i; du --inodes -xS /var/lib | sort -n | tail -n 20",
    ),
    DISK_READ_ONLY: Advice(
        "its disk takes no writes",
        "a file system that met an error is mounted read-only by the kernel: look after the disk first",
        "dmesg | tail -n 50",
        then="repair or replace the disk, mount it writable, restart lain-agent",
    ),
    MEMORY_PRESSURE: Advice(
        "it runs out of memory",
        "processes wait for memory, and next the kernel kills one: a pod, or something that every pod needs",
        "docker stats --no-stream; ps -eo rss,args --sort=-rss | head",
    ),
    PID_PRESSURE: Advice(
        "it runs out of processes",
        "no process or thread can be started: no pod, no check, no login",
        "ps -eLo pid= | sort | uniq -c | sort -n | tail",
    ),
    OPEN_FILES_PRESSURE: Advice(
        "it runs out of open files",
        "no file or connection can be opened by anything on it",
        "cat /proc/sys/fs/file-nr; sysctl -w fs.file-max=$((2 * $(sysctl -n fs.file-max)))",
    ),
    CONNTRACK_PRESSURE: Advice(
        "its table of connections is filling up",
        "when it is full the kernel drops new connections, of some and not of others",
        "sysctl -w net.netfilter.nf_conntrack_max=$((2 * $(sysctl -n net.netfilter.nf_conntrack_max)))",
    ),
    CLOCK_SKEWED: Advice(
        "its clock is off",
        "tokens and certificates are judged by it, and how long a pod has been ready is reckoned between machines",
        "timedatectl; systemctl restart chrony || systemctl restart systemd-timesyncd",
    ),
    CLOCK_JUMPED: Advice(
        "its clock was set by a jump",
        "times before and after do not fit together; said for ten minutes after it happened",
        "timedatectl; journalctl -n 50 -u chrony -u systemd-timesyncd",
        urgent=False,
    ),
    REGISTRY_UNAVAILABLE: Advice(
        "it cannot reach the registry",
        "what is on the node already can be started there; no other image can be brought",
        "docker ps --all --filter name=lain-registry",
        then="on the node that has it: docker start lain-registry",
    ),
    f"{REGISTRY_UNAVAILABLE}/CredentialsRefused": Advice(
        "the registry does not let it in",
        "its password is not the registry's: no image can be brought that is not on the node already",
        "docker compose -p lain run --rm files; docker restart lain-registry lain-agent",
    ),
    f"{REGISTRY_UNAVAILABLE}/CertificateInvalid": Advice(
        "it does not trust the registry's certificate",
        "no image can be brought that is not on the node already",
        "docker compose -p lain run --rm files; docker restart lain-registry",
    ),
    ETCD_MEMBER_UNREACHABLE: Advice(
        "it cannot reach a member of etcd",
        "LAIN works as long as most members answer; it has one fewer to lose",
        "docker ps --all --filter name=lain-etcd",
        then="on the member's node: docker start lain-etcd",
        urgent=False,
    ),
    CERTIFICATE_EXPIRING: Advice(
        "a certificate that it uses expires soon",
        "on that day the part it belongs to is cut off from etcd and refused by its callers",
        RENEW,
        "lain local up",
        urgent=False,
    ),
    f"{CERTIFICATE_EXPIRING}/Expired": Advice(
        "a certificate that it uses has expired",
        "nobody accepts it: with its next connection its part is cut off",
        RENEW,
        "lain local up",
    ),
    f"{CERTIFICATE_EXPIRING}/NotYetValid": Advice(
        "a certificate that it uses is not valid yet",
        "it was made by a machine whose clock is ahead, or this node's clock is behind",
        f"date; {RENEW}",
    ),
    f"{CERTIFICATE_EXPIRING}/RestartNeeded": Advice(
        "its agent still uses an old certificate",
        "a newer one is on disk; a daemon reads its own when it starts",
        "docker restart lain-agent",
        urgent=False,
    ),
    IP_FORWARD_OFF: Advice(
        "it forwards no packets",
        "its pods reach nothing outside the node, and no other machine reaches them",
        "sysctl -w net.ipv4.ip_forward=1; echo net.ipv4.ip_forward=1 > /etc/sysctl.d/90-lain.conf",
    ),
    BRIDGE_FILTER_OFF: Advice(
        "it does not filter packets between its own pods",
        "pods of one node reach each other past every rule: apps are not kept apart",
        "modprobe br_netfilter; sysctl -w net.bridge.bridge-nf-call-iptables=1; "
        "echo net.bridge.bridge-nf-call-iptables=1 > /etc/sysctl.d/91-lain.conf",
        "sysctl -w net.bridge.bridge-nf-call-iptables=1",
    ),
    POD_TRAFFIC_DROPPED: Advice(
        "its firewall drops the pods' packets",
        "somebody's rule stands before LAIN's: the pods run, and are not reached or reach nothing",
        "iptables -L DOCKER-USER -n -v --line-numbers",
        then="take the rule out: iptables -D DOCKER-USER NUMBER",
    ),
    f"{POD_TRAFFIC_DROPPED}/PolicyDrop": Advice(
        "its firewall lets no other machine reach its pods",
        "the policy of chain FORWARD is drop, and no rule accepts what comes for the pods",
        "iptables -I DOCKER-USER -d {block} -j ACCEPT",
    ),
    POD_NETWORK_MISSING: Advice(
        "it has no network for pods",
        "no pod can be started there; those that run go on",
        "docker network inspect lain; docker logs --tail 50 lain-agent",
    ),
    ADDRESSES_SHORT: Advice(
        "it has few addresses for pods",
        "an address rests until every router said that it sends nothing there any more",
        "",
        before="lainctl router list",
        then="if a router is gone for good: lainctl router forget NAME",
        urgent=False,
    ),
    VOLUME_MISSING: Advice(
        "data that was there is gone from its disk",
        "the instance is not started without it, until it is back or given up",
        "ls /var/lib/lain/volumes; mount | grep /var/lib/lain",
        then="is its disk mounted? Restore it from a backup, or let it start empty: lainctl volume confirm-loss NODE VOLUME",
    ),
    RECORDS_UNREADABLE: Advice(
        "its agent cannot read what it was told to run",
        "the pods of these records are left as they are; usually an agent older than the controller",
        "docker logs --tail 50 lain-agent",
        then="upgrade the agent to the controller's version",
    ),
}  # fmt: skip


def found(conditions: tuple[Condition, ...]) -> tuple[Condition, ...]:
    """Those that are true."""
    return tuple(one for one in conditions if one.status is ConditionStatus.TRUE)


def advice(condition: Condition) -> Advice:
    """What to say of it: by type and reason, else by type; for a type of a newer agent, what it says itself."""
    known = ADVICE.get(f"{condition.type}/{condition.reason}") or ADVICE.get(condition.type)
    if known is None:
        return Advice(
            f"its agent reports {condition.type}", "this lain has no words for it: it is older than the agent", ""
        )
    return known


@dataclass(frozen=True, slots=True)
class Step:
    """The next step: what a person does before, the command to run on the node ("" none), what to do with what it shows."""

    before: str
    command: str
    then: str

    def on(self, node: str) -> str:
        """In one line, for somebody who reaches the node by name."""
        command = f"on {node}: {self.command}" if self.command else ""
        return "; then ".join(part for part in (self.before, command, self.then) if part)


def step(condition: Condition, *, local: bool = False, block: str = "") -> Step:
    """What to do, with the names that the evidence gives (``name, name: …`` at its beginning)."""
    told = advice(condition)
    names = " ".join(one.strip() for one in condition.message.partition(":")[0].split(","))

    def filled(text: str) -> str:
        return text.replace("{names}", names).replace("{block}", block or "PODS")

    return Step(filled(told.before), filled(told.do_local if local and told.do_local else told.do), filled(told.then))


def urgent(condition: Condition) -> bool:
    """Whether something does not work because of it."""
    return advice(condition).urgent
