"""Which containers make a LAIN node: one table, from which ``lain local`` renders ``docker run`` and the repository its ``compose.yaml``.

Pure. All run in the host's network, with every capability dropped but those named, and see of ``/etc/lain`` only what is theirs.
"""

from __future__ import annotations

import hashlib
import json
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from lain_cli.bootstrap.layout import UIDS
from lain_shared import keys

ETC, DATA = "/etc/lain", "/var/lib/lain"
TLS, SECRETS = "/etc/lain/tls", "/etc/lain/secrets"
HOST_RUN = "/host/run"
SPEC_LABEL = "lain.spec"
PART_LABEL = "lain.part"
LOG_OPTIONS = {"max-size": "10m", "max-file": "2"}
PIDS_LIMIT = 1024
ETCD_QUOTA_BYTES = 2 * 1024**3


@dataclass(frozen=True, slots=True)
class Site:
    """The facts the containers are told. ``address``: this node's. For compose the values are ``${VARIABLES}``."""

    node: str
    address: str
    docker_run: str = "/run"
    """The folder of the Engine's socket. The folder, because an Engine that restarts makes its socket anew, and a mount of the file
    would go on leading to the old one."""
    nginx_http_port: str = "80"
    nginx_https_port: str = "443"


@dataclass(frozen=True, slots=True)
class Part:
    """One container of the platform. ``mounts``: (on the host, in the container, read-only)."""

    name: str
    image: str
    user: int
    command: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    mounts: tuple[tuple[str, str, bool], ...] = ()
    capabilities: tuple[str, ...] = ()
    entrypoint: str = ""
    stop_seconds: int = 20
    cpu_weight: int = 1024
    """Docker's CPU shares, where 1024 is its default: pods have 256, so that no neighbour keeps a daemon waiting."""
    tmpfs: tuple[str, ...] = ("/tmp",)  # noqa: S108 - a path in the container
    needs: tuple[str, ...] = ()
    ready: tuple[str, ...] = ()
    """A command on the node that exits 0 once this part is ready."""
    hands_over: bool = False
    """On SIGQUIT it lets go of its ports at once, and ends what it has in hand after that. Its successor is there by then, and waits."""

    @property
    def container(self) -> str:
        return f"lain-{self.name}"


def parts(site: Site) -> tuple[Part, ...]:
    """Every part, in the order in which they start best (they may start in any)."""
    etcd = f"{site.address}:2379"
    agent = keys.user_of(keys.AGENT, site.node)
    return (
        Part(
            "etcd",
            "etcd",
            UIDS["etcd"],
            command=etcd_flags(site),
            mounts=(_tls("etcd"), (f"{DATA}/etcd", "/var/lib/etcd", False)),
            ready=("lain-health", "http://127.0.0.1:2381/health"),
            cpu_weight=4096,
        ),
        Part(
            "registry",
            "registry",
            UIDS["registry"],
            mounts=(_tls("registry"), _secrets("registry"), (f"{DATA}/registry", "/var/lib/registry", False)),
            ready=_answers(5000, "/"),
        ),
        Part(
            "console",
            "console",
            UIDS[keys.CONSOLE],
            environment={
                **_common("CONSOLE", etcd, 9510),
                "LAIN_CONSOLE_ID": site.node,
                "LAIN_CONSOLE_SIGNING_KEY": f"{SECRETS}/signing-key.pem",
                "LAIN_CONSOLE_REGISTRY": f"https://{site.address}:5000",
                "LAIN_CONSOLE_REGISTRY_USER": "console",
                "LAIN_CONSOLE_REGISTRY_PASSWORD_FILE": f"{SECRETS}/registry-password",
            },
            mounts=(_tls(keys.CONSOLE), _secrets(keys.CONSOLE)),
            ready=_answers(9510),
            needs=("etcd", "registry"),
        ),
        Part(
            "deployd",
            "deployd",
            UIDS[keys.DEPLOYD],
            command=("lain-deployd-controller",),
            environment={
                **_common("DEPLOYD", etcd, 9511),
                "LAIN_DEPLOYD_ID": site.node,
                "LAIN_HEALTH_URL": "https://127.0.0.1:9511/readyz",
            },
            mounts=(_tls(keys.DEPLOYD),),
            ready=_answers(9511),
            needs=("etcd",),
        ),
        Part(
            "agent",
            "deployd",
            UIDS[keys.AGENT],
            command=("lain-deployd-agent",),
            environment={
                **_common("AGENT", etcd, 9520),
                "LAIN_AGENT_NODE": site.node,
                "LAIN_AGENT_ADDRESS": site.address,
                "LAIN_AGENT_DOCKER": f"{HOST_RUN}/docker.sock",
                "LAIN_AGENT_STATE_DIR": f"{DATA}/agent",
                "LAIN_AGENT_VOLUMES_ROOT": f"{DATA}/volumes",
                "LAIN_AGENT_REGISTRY": f"{site.address}:5000",
                "LAIN_AGENT_REGISTRY_USER": "agent",
                "LAIN_AGENT_REGISTRY_PASSWORD_FILE": f"{SECRETS}/registry-password",
                "LAIN_HEALTH_URL": "https://127.0.0.1:9520/readyz",
            },
            mounts=(
                _tls(agent),
                _secrets(keys.AGENT),
                (site.docker_run, HOST_RUN, True),
                (f"{DATA}/agent", f"{DATA}/agent", False),
                (f"{DATA}/volumes", f"{DATA}/volumes", False),
            ),
            capabilities=("NET_ADMIN", "CHOWN", "DAC_OVERRIDE", "FOWNER"),
            ready=_answers(9520),
            needs=("etcd", "registry"),
        ),
        Part(
            "watcher",
            "watcher",
            UIDS[keys.WATCHER],
            environment={
                **_common("WATCHER", etcd, 9530),
                "LAIN_WATCHER_ROUTER": site.node,
                "LAIN_WATCHER_NODE": site.node,
                "LAIN_WATCHER_STATE_DIR": f"{DATA}/router",
                "LAIN_WATCHER_CONTROL": f"{DATA}/router/control.sock",
                "LAIN_WATCHER_CERTIFICATES": f"{ETC}/certificates",
            },
            mounts=(
                _tls(keys.WATCHER),
                (f"{DATA}/router", f"{DATA}/router", False),
                (f"{DATA}/certificates", f"{ETC}/certificates", True),
            ),
            ready=_answers(9530),
            needs=("etcd",),
        ),
        Part(
            "nginx",
            "nginx",
            0,
            cpu_weight=2048,
            environment={
                "LAIN_NGINX_SHARED": f"{DATA}/router",
                "LAIN_NGINX_HTTP_PORT": site.nginx_http_port,
                "LAIN_NGINX_HTTPS_PORT": site.nginx_https_port,
            },
            mounts=((f"{DATA}/router", f"{DATA}/router", False),),
            capabilities=("NET_BIND_SERVICE", "SETUID", "SETGID", "DAC_OVERRIDE", "CHOWN", "KILL"),
            tmpfs=("/tmp", "/run/lain-nginx", "/var/lib/nginx", "/var/log/nginx"),  # noqa: S108 - paths in the container
            ready=("docker", "exec", "lain-nginx", "python3", "/opt/lain/nginx/supervisor.py", "--check"),
            hands_over=True,
        ),
    )


def etcd_flags(site: Site) -> tuple[str, ...]:
    """One member, certificates only, tuned for one LAN: a leader change costs about a second."""
    return (
        f"--name={site.node}",
        "--data-dir=/var/lib/etcd",
        "--listen-client-urls=https://0.0.0.0:2379",
        f"--advertise-client-urls=https://{site.address}:2379",
        "--client-cert-auth",
        f"--trusted-ca-file={TLS}/ca.pem",
        f"--cert-file={TLS}/cert.pem",
        f"--key-file={TLS}/key.pem",
        "--listen-peer-urls=https://127.0.0.1:2380",
        "--initial-advertise-peer-urls=https://127.0.0.1:2380",
        f"--initial-cluster={site.node}=https://127.0.0.1:2380",
        "--peer-client-cert-auth",
        f"--peer-trusted-ca-file={TLS}/ca.pem",
        f"--peer-cert-file={TLS}/cert.pem",
        f"--peer-key-file={TLS}/key.pem",
        "--listen-metrics-urls=http://127.0.0.1:2381",
        "--enable-grpc-gateway=false",
        "--enable-v2=false",
        "--heartbeat-interval=50",
        "--election-timeout=500",
        "--max-txn-ops=1024",
        "--auto-compaction-mode=periodic",
        "--auto-compaction-retention=10m",  # who is further behind lists anew; an hour of many deploys could fill the quota
        f"--quota-backend-bytes={ETCD_QUOTA_BYTES}",
        "--logger=zap",
        "--log-level=warn",
    )


def _answers(port: int, path: str = "/readyz") -> tuple[str, ...]:
    return ("lain-health", f"https://127.0.0.1:{port}{path}", f"{ETC}/ca")


def _tls(user: str) -> tuple[str, str, bool]:
    return (f"{ETC}/tls/{user}", TLS, True)


def _secrets(owner: str) -> tuple[str, str, bool]:
    return (f"{ETC}/secrets/{owner}", SECRETS, True)


def _common(service: str, etcd: str, port: int) -> dict[str, str]:
    return {
        f"LAIN_{service}_ETCD": etcd,
        f"LAIN_{service}_TLS_DIR": TLS,
        f"LAIN_{service}_PORT": str(port),
    }


def run_argv(part: Part, image: str, image_id: str) -> tuple[str, ...]:
    """The arguments of ``docker run`` for this part; its spec label changes when anything of it does, the image included."""
    arguments = [
        "run", "--detach", "--name", part.container, "--restart", "always", "--network", "host", "--read-only",
        "--user", f"{part.user}:{part.user}", "--cap-drop", "ALL", "--security-opt", "no-new-privileges",
        "--pids-limit", str(PIDS_LIMIT), "--cpu-shares", str(part.cpu_weight), "--stop-timeout", str(part.stop_seconds),
    ]  # fmt: skip
    for name, value in LOG_OPTIONS.items():
        arguments += ["--log-opt", f"{name}={value}"]
    for capability in part.capabilities:
        arguments += ["--cap-add", capability]
    for folder in part.tmpfs:
        arguments += ["--tmpfs", folder]
    for source, target, read_only in part.mounts:
        arguments += ["--volume", f"{source}:{target}{':ro' if read_only else ''}"]
    for name, value in part.environment.items():
        arguments += ["--env", f"{name}={value}"]
    if part.entrypoint:
        arguments += ["--entrypoint", part.entrypoint]
    digest = hashlib.sha256(json.dumps([arguments, part.command, image_id]).encode()).hexdigest()[:32]
    return (
        *arguments,
        "--label",
        f"{PART_LABEL}={part.name}",
        "--label",
        f"{SPEC_LABEL}={digest}",
        image,
        *part.command,
    )


def replacement(part: Part, argv: tuple[str, ...]) -> str:
    """A shell script for the node: this part's container, made anew from ``argv`` (``run_argv``), takes the place of the one that runs.

    The successor is made before the old one is told to stop, so a part is away for no longer than it takes to stop and to start. It may be
    cut short anywhere and run again.
    """
    create = shlex.join(("docker", "create", *argv[2:]))
    name, old = part.container, f"{part.container}-old"
    start = f"docker start {name}"
    swap: tuple[str, ...]
    if part.hands_over:
        swap = (
            f"docker update --restart no {old}",
            start,
            f"docker kill --signal QUIT {old} || true",
            f"timeout {part.stop_seconds} docker wait {old} || true",
        )
    else:
        swap = (f"docker stop --time {part.stop_seconds} {old}", start)
    return f"""set -e
exists() {{ docker container inspect $1 >/dev/null 2>&1; }}
if exists {name}; then
  if exists {old}; then docker rm --force {old}; fi
  docker rename {name} {old}
fi
{create}
if exists {old}; then
  {"; ".join(swap)}
  docker rm --force {old}
else
  {start}
fi
"""


def spec_of(argv: Iterable[str]) -> str:
    """The spec label in a ``run_argv``."""
    return next(word.partition("=")[2] for word in argv if word.startswith(f"{SPEC_LABEL}="))
