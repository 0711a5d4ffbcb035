"""A local cluster: one node container on a bridge of its own, the platform's containers inside it. Every step may be repeated.

What exists is asked of Docker, by name and label; nothing is remembered elsewhere but the phase in the CLI's configuration.
"""

from __future__ import annotations

import contextlib
import hashlib
import ipaddress
import json
import re
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lain_cli.config import Config
from lain_cli.local import image_builds, images
from lain_cli.local.docker import CommandFailed, Docker
from lain_cli.local.platform import PART_LABEL, SPEC_LABEL, Part, Site, parts, replacement, run_argv, spec_of
from lain_cli.local.preflight import PORTS, choose_lan, choose_ports, port_is_free, taken_networks
from lain_shared.errors import LainError, NotFound, Unavailable

LABEL = "lain.local"
NODE = "n1"
HOST_NUMBER = 11
"""The node's address is the bridge network's first plus this."""
DOMAIN = "lain.localhost"
NODE_SECONDS = 60.0
PARTS_SECONDS = 120.0
LOOK_AGAIN_SECONDS = 20 * 86400
"""After so long certificates are looked at though nothing changed: well within ``pki.RENEW_DAYS``."""
POLL_SECONDS = 0.1
CAPABILITIES = (
    "AUDIT_CONTROL", "AUDIT_READ", "BLOCK_SUSPEND", "DAC_READ_SEARCH", "IPC_LOCK", "IPC_OWNER", "LEASE", "LINUX_IMMUTABLE",
    "MAC_ADMIN", "MAC_OVERRIDE", "NET_ADMIN", "NET_BROADCAST", "SYSLOG", "SYS_ADMIN", "SYS_BOOT", "SYS_MODULE", "SYS_NICE",
    "SYS_PACCT", "SYS_PTRACE", "SYS_RAWIO", "SYS_TIME", "SYS_TTY_CONFIG", "WAKE_ALARM",
)  # fmt: skip
"""What an Engine inside a container needs. Not ``--privileged``: that asks for every capability, and some machines lack one."""

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class PartStatus:
    """One platform container. ``state``: Docker's word, or ``missing``; ``ready``: it says so itself."""

    name: str
    state: str
    ready: bool
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Status:
    """A local cluster as it is. ``ports``: on this machine's loopback, by name."""

    name: str
    state: str
    node: str = ""
    address: str = ""
    ports: Mapping[str, int] | None = None
    parts: tuple[PartStatus, ...] = ()


@dataclass(slots=True)
class Cluster:
    """The local cluster ``name``. ``isolated``: nothing in it can send a packet out of this machine."""

    name: str
    docker: Docker
    config: Config
    say: Say
    isolated: bool = False

    @property
    def container(self) -> str:
        return f"lain-{self.name}-{NODE}"

    @property
    def network(self) -> str:
        return f"lain-{self.name}"

    @property
    def volumes(self) -> Mapping[str, str]:
        """Volume → where it is mounted in the node."""
        folders = {"docker": "/var/lib/docker", "data": "/var/lib/lain", "etc": "/etc/lain"}
        return {f"{self.container}-{name}": folder for name, folder in folders.items()}

    @property
    def inside(self) -> Docker:
        """The node's own Engine."""
        return Docker(inside=self.container)

    # --- verbs --------------------------------------------------------------------------------------------------------

    def up(self, wanted_ports: Mapping[str, int] = PORTS, *, build: bool = True) -> bool:
        """Make the cluster be, current and ready; True if anything had to be changed. ``build``: images of changed sources too."""
        built = image_builds.ensure(self.docker, self.say, build=build)
        changed = bool(built) | self._node_up(wanted_ports)
        changed |= self._images_in()
        changed |= self._parts_up()
        self._wait_ready()
        self._write_phase()
        return changed

    def stop(self) -> None:
        """Shut the node down; everything it holds stays."""
        self._require()
        self.docker.run("stop", "--time", "30", self.container)

    def start(self) -> None:
        """Boot the node again; its containers come back by themselves, with new certificates if theirs ran down meanwhile."""
        self._require()
        self.docker.run("start", self.container)
        self._wait_engine()
        node = self._require()  # as it is now: its ports may be others
        if self.inside.json("image", "inspect", images.TOOLS.tag):  # not there: this lain is newer, and `up` brings it
            for name in renewed(self._bootstrap("files", self._address(node), self._ports(node)), self._specs()):
                self.inside.run("restart", f"lain-{name}")
        self._wait_ready()
        self._write_phase()

    def down(self) -> bool:
        """Remove the cluster and everything in it; True if there was anything."""
        there = self._inspect() is not None
        self.docker.succeeds("rm", "--force", "--volumes", self.container)
        for volume in self.docker.run("volume", "ls", "-q", "--filter", f"label={LABEL}={self.name}").split():
            self.docker.run("volume", "rm", "--force", volume)
            there = True
        for network in self.docker.run("network", "ls", "-q", "--filter", f"label={LABEL}={self.name}").split():
            self.docker.run("network", "rm", network)
            there = True
        self.forget()
        return there

    def forget(self) -> None:
        """Remove the phase from the CLI's configuration, if it is this cluster's."""
        if self.name in self.config.phases():
            self.config.forget_phase(self.name)
        self._ca_file.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # other clusters' files are in it, or it was never made
            self._ca_file.parent.rmdir()

    def status(self) -> Status:
        """How it is; never raises for a cluster that is not there."""
        node = self._inspect()
        if node is None:
            return Status(self.name, "absent")
        state = str(node["State"]["Status"])
        shown = Status(self.name, state, self.container, self._address(node), self._ports(node))
        if state != "running":
            return shown
        return Status(self.name, state, self.container, shown.address, shown.ports, self._part_states(self._site(node)))

    # --- the node -----------------------------------------------------------------------------------------------------

    def _inspect(self) -> dict[str, Any] | None:
        found = self.docker.json("container", "inspect", self.container)
        return found[0] if found else None

    def _require(self) -> dict[str, Any]:
        node = self._inspect()
        if node is None:
            raise NotFound(
                f"there is no local cluster {self.name!r}", next="make one: lain local up", code="no_cluster"
            )
        return node

    def _node_up(self, wanted_ports: Mapping[str, int]) -> bool:
        image_id = str(self.docker.json("image", "inspect", images.NODE.tag)[0]["Id"])
        node = self._inspect()
        if node is not None and node["Image"] != image_id:
            self.say("the node's image changed: making the node anew; its data stay")
            wanted_ports = self._ports(node)
            self.docker.run("rm", "--force", self.container)
            node = None
        if node is not None and node["State"]["Status"] == "running":
            return False
        if node is not None:
            self.say("booting the node")
            self.docker.run("start", self.container)
        else:
            self._node_run(wanted_ports)
        self._wait_engine()
        return True

    def _node_run(self, wanted_ports: Mapping[str, int]) -> None:
        label = ("--label", f"{LABEL}={self.name}")
        for volume in self.volumes:
            self.docker.run("volume", "create", *label, volume)
        networks = self.docker.json("network", "inspect", self.network)
        if networks:
            subnet = str(networks[0]["IPAM"]["Config"][0]["Subnet"])
        else:
            subnet = choose_lan(taken_networks(self.docker))
            masquerade = "false" if self.isolated else "true"
            self.docker.run(
                "network", "create", *label, "--subnet", subnet,
                "--opt", f"com.docker.network.bridge.enable_ip_masquerade={masquerade}", self.network,
            )  # fmt: skip
        address = str(ipaddress.ip_network(subnet)[HOST_NUMBER])
        ports = choose_ports(wanted_ports, port_is_free)
        for name, port in ports.items():
            if wanted_ports[name] and port != wanted_ports[name]:
                self.say(f"port {wanted_ports[name]} is taken: {name.replace('_', ' ')} is at {port}")
        self.say(f"booting node {NODE} at {address}")
        arguments = [
            "run",
            "--detach",
            "--name",
            self.container,
            "--hostname",
            NODE,
            *label,
            "--restart",
            "unless-stopped",
        ]
        for capability in CAPABILITIES:
            arguments += ["--cap-add", capability]
        for option in ("seccomp=unconfined", "apparmor=unconfined", "systempaths=unconfined"):
            arguments += ["--security-opt", option]
        arguments += ["--cgroupns", "private", "--device-cgroup-rule", "a *:* rwm", "--sysctl", "net.ipv4.ip_forward=1"]
        arguments += ["--network", self.network, "--ip", address, "--stop-timeout", "30"]
        for volume, folder in self.volumes.items():
            arguments += ["--volume", f"{volume}:{folder}"]
        for name, port in ports.items():
            arguments += ["--publish", f"127.0.0.1:{port or ''}:{PORTS[name]}"]
        if self.isolated:
            arguments += ["--env", "LAIN_NODE_ISOLATED=1"]
        self.docker.run(*arguments, images.NODE.tag)

    def _wait_engine(self) -> None:
        deadline = time.monotonic() + NODE_SECONDS
        while not self.inside.succeeds("version", "--format", "{{.Server.Version}}"):
            node = self._inspect()
            if node is None or node["State"]["Status"] != "running" or time.monotonic() > deadline:
                words = self.docker.run("logs", "--tail", "10", self.container).splitlines()
                raise Unavailable(
                    "the node's Engine did not start", evidence={"its_last_words": words},
                    next=f"docker logs {self.container}; docker exec {self.container} tail /var/log/dockerd.log",
                )  # fmt: skip
            time.sleep(POLL_SECONDS)

    def _address(self, node: Mapping[str, Any]) -> str:
        attached = node["NetworkSettings"]["Networks"].get(self.network) or {}
        return str((attached.get("IPAMConfig") or {}).get("IPv4Address") or attached.get("IPAddress") or "")

    def _ports(self, node: Mapping[str, Any]) -> dict[str, int]:
        """Name → port on this machine, as published now, or as asked for when the node is down."""
        bound = node["NetworkSettings"].get("Ports") or {}
        asked = node["HostConfig"].get("PortBindings") or {}
        found: dict[str, int] = {}
        for name, inner in PORTS.items():
            bindings = bound.get(f"{inner}/tcp") or asked.get(f"{inner}/tcp") or [{}]
            found[name] = int(bindings[0].get("HostPort") or 0)
        return found

    def _site(self, node: Mapping[str, Any]) -> Site:
        return Site(node=NODE, address=self._address(node))

    # --- what runs in it ----------------------------------------------------------------------------------------------

    def _images_in(self) -> bool:
        """Bring the platform's images into the node, those that differ; remove what they replaced."""
        tags = [image.tag for image in images.PLATFORM]
        outer = {
            tag: str(found["Id"]) for found in self.docker.json("image", "inspect", *tags) for tag in found["RepoTags"]
        }
        inner = {
            tag: str(found["Id"])
            for found in self.inside.json("image", "inspect", *tags)
            for tag in found.get("RepoTags") or ()
        }
        stale = [tag for tag in tags if inner.get(tag) != outer[tag]]
        if stale:
            self.say(f"copying {len(stale)} images into the node")
            images.save_and_load(self.docker, self.inside, stale)
        return bool(stale)

    def _bootstrap(self, step: str, address: str, ports: Mapping[str, int]) -> str:
        folders = [f"--volume={folder}:{folder}" for folder in ("/etc/lain", "/var/lib/lain")]
        return self.inside.run(
            "run", "--rm", "--network", "host", *folders, images.TOOLS.tag, "bootstrap", step,
            "--cluster", self.name, "--node", NODE, "--address", address, "--domain", DOMAIN,
            "--router-http-port", str(ports["router_http"]), "--router-https-port", str(ports["router_https"]),
            "--registry-push", f"127.0.0.1:{ports['registry']}",
        )  # fmt: skip

    def _parts_up(self) -> bool:
        node = self._require()
        address, ports = self._address(node), self._ports(node)
        site = self._site(node)
        table, argvs = {part.name: part for part in parts(site)}, self._argvs(site)
        have = self._specs()
        settled = settlement(self.name, address, ports, time.time())
        stale = {name: argv for name, argv in argvs.items() if have.get(name) != spec_of(argv)}
        if not stale and self._settled() == settled:
            return False
        self.say("certificates, credentials, configuration")
        restart = renewed(self._bootstrap("files", address, ports), argvs)
        self._trust_registry(address)
        for name, argv in argvs.items():
            if name in stale:
                self.say(f"starting {name}" if name not in have else f"replacing {name}")
                self._in_node("sh", "-c", replacement(table[name], argv))
            elif name in restart:
                self.inside.run("restart", f"lain-{name}")
            if name == "etcd":
                self._bootstrap("seed", address, ports)
        self.inside.succeeds("image", "prune", "--force", "--filter", "label=lain.platform=true")
        self._in_node("sh", "-c", f"echo {settled} > /etc/lain/.settled")
        return True

    def _argvs(self, site: Site) -> dict[str, tuple[str, ...]]:
        tags = {image.name: image.tag for image in images.PLATFORM}
        ids = {
            tag: str(found["Id"])
            for found in self.inside.json("image", "inspect", *tags.values())
            for tag in found["RepoTags"]
        }
        return {part.name: run_argv(part, tags[part.image], ids[tags[part.image]]) for part in parts(site)}

    def _specs(self) -> dict[str, str]:
        """Part → spec label of its container, for those that exist."""
        form = '{{.Label "' + PART_LABEL + '"}} {{.Label "' + SPEC_LABEL + '"}}'
        lines = self.inside.run("ps", "--all", "--filter", f"label={PART_LABEL}", "--format", form).splitlines()
        return dict(line.split(" ", 1) for line in lines)

    def _settled(self) -> str:
        try:
            return self._in_node("cat", "/etc/lain/.settled")
        except CommandFailed:
            return ""

    def _trust_registry(self, address: str) -> None:
        """The node's Engine trusts the cluster's registry by the cluster's CA."""
        folder = f"/etc/lain/certs.d/{address}:5000"
        self._in_node("sh", "-c", f"mkdir -p {folder} && cp /etc/lain/ca/ca.pem {folder}/ca.crt")

    def _in_node(self, *command: str) -> str:
        return self.docker.run("exec", self.container, *command)

    # --- is it ready --------------------------------------------------------------------------------------------------

    def _ready(self, part: Part) -> tuple[bool, str]:
        try:
            return True, self._in_node(*part.ready)
        except CommandFailed as error:
            return False, " ".join(map(str, error.evidence.get("output", ())))

    def _wait_ready(self) -> None:
        deadline = time.monotonic() + PARTS_SECONDS
        waiting = list(parts(self._site(self._require())))
        while waiting:
            ready, detail = self._ready(waiting[0])
            if ready:
                waiting.pop(0)
            elif time.monotonic() > deadline:
                raise Unavailable(
                    f"{waiting[0].name} is not ready after {PARTS_SECONDS:.0f} s",
                    why=detail[:400],
                    evidence={
                        "its_last_words": self._words(waiting[0]),
                        "waiting_for": [part.name for part in waiting],
                    },
                    next=f"lain local logs {waiting[0].name}",
                )
            else:
                time.sleep(POLL_SECONDS)

    def _words(self, part: Part) -> list[str]:
        try:
            return self.docker.run(
                "exec", self.container, "sh", "-c", f"docker logs --tail 8 {part.container} 2>&1"
            ).splitlines()
        except LainError as error:
            return [error.message]

    def _part_states(self, site: Site) -> tuple[PartStatus, ...]:
        form = '{{.Label "' + PART_LABEL + '"}} {{.State}}'
        lines = self.inside.run("ps", "--all", "--filter", f"label={PART_LABEL}", "--format", form).splitlines()
        states = dict(line.split(" ", 1) for line in lines)
        shown: list[PartStatus] = []
        for part in parts(site):
            state = states.get(part.name, "missing")
            ready, detail = self._ready(part) if state == "running" else (False, "")
            shown.append(PartStatus(part.name, state, ready, "" if ready else detail[:300]))
        return tuple(shown)

    # --- what the command line knows of it ----------------------------------------------------------------------------

    @property
    def _ca_file(self) -> Path:
        return self.config.home / "local" / f"{self.name}-ca.pem"

    def _write_phase(self) -> None:
        """The phase of this cluster in the CLI's configuration: addresses, CA, the operator's token, the registry's credentials."""
        ports = self._ports(self._require())
        files = ("ca/ca.pem", "secrets/client/token", "secrets/client/registry-password")
        read = "for file in $@; do cat /etc/lain/$file; echo; echo =; done"
        ca, token, password = (text.strip() for text in self._in_node("sh", "-c", read, "-", *files).split("\n=")[:3])
        values = {
            "domain": DOMAIN,
            "console": f"https://127.0.0.1:{ports['console']}",
            "deployd": f"https://127.0.0.1:{ports['deployd']}",
            "ca": str(self._ca_file),
            "token": token,
            "registry": f"127.0.0.1:{ports['registry']}",
            "registry_user": "push",
            "registry_password": password,
            "router": "127.0.0.1",
            "router_http": ports["router_http"],
            "router_https": ports["router_https"],
        }
        self._ca_file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        if not self._ca_file.exists() or self._ca_file.read_text() != ca + "\n":
            self._ca_file.write_text(ca + "\n")
        if self.config.merged().get(self.name) != values:
            self.config.save_phase(self.name, values)


def settlement(name: str, address: str, ports: Mapping[str, int], now_seconds: float) -> str:
    """What certificates and seed were last made for; another text means: make them again. It changes with time too (pure)."""
    period = int(now_seconds // LOOK_AGAIN_SECONDS)
    return hashlib.sha256(json.dumps([name, address, sorted(ports.items()), period]).encode()).hexdigest()


def renewed(told: str, among: Iterable[str]) -> tuple[str, ...]:
    """The parts ``among`` these whose certificate ``bootstrap files`` says it made (pure). A daemon reads its own when it starts."""
    users = set(re.findall(r"^certificate of ([^@:\s]+)", told, re.MULTILINE))
    return tuple(name for name in among if name in users)


def names(docker: Docker) -> tuple[str, ...]:
    """Every local cluster on this Engine."""
    lines: Iterable[str] = docker.run(
        "ps", "--all", "--filter", f"label={LABEL}", "--format", '{{.Label "' + LABEL + '"}}'
    ).splitlines()
    return tuple(sorted(set(lines)))
