"""Closed by default: what an app's container, a bad token and a wrong certificate reach, which is nothing."""

from __future__ import annotations

import hashlib
import hmac
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from cryptography.hazmat.primitives import serialization
from jose import jwt
from jose.utils import base64url_encode

from lain_cli.bootstrap import pki
from lain_cli.local import images
from lain_shared import keys
from tests.fixtures.cluster import App, LocalCluster, wait_until

DAEMONS = {
    "console": (9510, "/api/v1/apps/"),
    "deployd": (9511, "/api/v1/nodes/"),
    "agent": (9520, "/api/v1/pods/"),
    "watcher": (9530, "/api/v1/routes/"),
}
"""Daemon → its port, and a path of its API that is not public."""

PROBE = r"""
import http.client, json, ssl, sys
found = {}
context = ssl.create_default_context()
context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
for name, host, port, tls, path, token in json.loads(sys.argv[1]):
    kind = http.client.HTTPSConnection if tls else http.client.HTTPConnection
    connection = kind(host, port, timeout=3, **({"context": context} if tls else {}))
    try:
        connection.request("GET", path, headers={"Authorization": f"Bearer {token}"} if token else {})
        found[name] = connection.getresponse().status
    except (OSError, http.client.HTTPException) as error:
        found[name] = type(error).__name__
print(json.dumps(found))
"""
"""Tries (name, host, port, tls, path, token) and tells the HTTP status or the error; the standard library alone."""

Try = tuple[str, str, int, bool, str, str]


def shipped(cluster: LocalCluster, folder: Path, name: str) -> Iterator[App]:
    app = cluster.app("hello", folder, name=name)
    app.ship()
    yield app
    cluster.lain("undeploy", "--yes", "--app", name, code=None)


@pytest.fixture(scope="module")
def intruder(cluster: LocalCluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[App]:
    yield from shipped(cluster, tmp_path_factory.mktemp("intruder"), "intruder")


@pytest.fixture(scope="module")
def neighbour(cluster: LocalCluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[App]:
    yield from shipped(cluster, tmp_path_factory.mktemp("neighbour"), "neighbour")


@pytest.fixture(scope="module")
def node(cluster: LocalCluster) -> str:
    """The node's address."""
    return str(cluster.lain("local", "status", "--name", cluster.name, "-o", "json").json()["address"])


def from_app(app: App, tries: Sequence[Try]) -> dict[str, Any]:
    """What the app's container reaches."""
    told = app.cluster.lain("exec", "--app", app.name, "web", "1", "--", "python3", "-c", PROBE, json.dumps(tries))
    return dict(json.loads(told.out))


def from_node(cluster: LocalCluster, tries: Sequence[Try]) -> dict[str, Any]:
    return dict(json.loads(cluster.on_node("python3", "-c", PROBE, json.dumps(tries)).out))


def test_an_app_reaches_no_daemon_no_etcd_no_docker_no_registry(intruder: App, node: str) -> None:
    tries: list[Try] = [
        ("registry", node, 5000, True, "/v2/_catalog", ""),
        ("etcd", node, 2379, True, "/version", ""),
        ("etcd in clear", node, 2379, False, "/version", ""),
        ("etcd's peers", node, 2380, True, "/members", ""),
        ("etcd's metrics", node, 2381, False, "/health", ""),
        ("docker", node, 2375, False, "/info", ""),
        ("docker by tls", node, 2376, True, "/info", ""),
    ]
    tries += [(name, node, port, True, path, "") for name, (port, path) in DAEMONS.items()]
    tries += [(f"{name} in clear", node, port, False, path, "") for name, (port, path) in DAEMONS.items()]
    found = from_app(intruder, tries)
    assert found.pop("registry") == 401
    assert {name: found.pop(name) for name in DAEMONS} == dict.fromkeys(DAEMONS, 401)
    assert {name: status for name, status in found.items() if isinstance(status, int)} == {}, (
        "answered what should be refused"
    )


def test_an_app_has_no_socket_of_docker_and_no_secret_of_the_platform(intruder: App) -> None:
    paths = ("/var/run/docker.sock", "/run/docker.sock", "/etc/lain", "/var/lib/lain")
    search = f"import os; print([path for path in {paths} if os.path.exists(path)])"
    told = intruder.cluster.lain("exec", "--app", "intruder", "web", "1", "--", "python3", "-c", search)
    assert told.out.strip() == "[]"


def test_an_app_reaches_no_other_app_s_container_and_nothing_outside(intruder: App, neighbour: App) -> None:
    pod = neighbour.proc("web")["pods"][0]
    host = str(pod["address"]).partition(":")[0]
    assert from_node(intruder.cluster, [("here", host, 8000, False, "/", "")])["here"] == 200, "the router reaches it"
    found = from_app(
        intruder,
        [
            ("neighbour", host, 8000, False, "/", ""),
            ("outside", "198.51.100.7", 80, False, "/", ""),
            ("self", "127.0.0.1", 8000, False, "/", ""),
        ],
    )
    assert found["self"] == 200
    assert not isinstance(found["neighbour"], int) and not isinstance(found["outside"], int)


# --- tokens -----------------------------------------------------------------------------------------------------------


def bad_tokens(cluster: LocalCluster) -> dict[str, str]:
    """Name → a token that is wrong in one way."""
    good = operator_token(cluster)
    head = {"kid": jwt.get_unverified_header(good)["kid"]}
    claims = jwt.get_unverified_claims(good)
    own = cluster.on_node("cat", "/etc/lain/secrets/console/signing-key.pem").out
    foreign = pki.key_pem(pki.new_key()).decode()
    public = serialization.load_pem_private_key(own.encode(), password=None).public_key()
    public_pem = public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    now = int(time.time())

    def signed(key: str, kid: Mapping[str, str] = head, **changes: object) -> str:
        return str(jwt.encode({**claims, **changes}, key, algorithm="ES256", headers=dict(kid)))

    body, _, signature = good.rpartition(".")
    return {
        "rubbish": "rubbish",
        "changed signature": f"{body}.{signature[:-8]}AAAAAAAA",
        "changed claims": good.replace(good.split(".")[1], encoded({**claims, "sub": "somebody"})),
        "a foreign key": signed(foreign),
        "a foreign key under a kid of its own": signed(foreign, {"kid": "feedfeedfeedfeed"}),
        "alg none": f"{encoded({'alg': 'none', 'typ': 'JWT', **head})}.{encoded(claims)}.",
        "alg HS256 with the public key": by_hand(claims, public_pem, head),
        "expired": signed(own, iat=now - 7200, nbf=now - 7200, exp=now - 3600),
        "not yet": signed(own, iat=now + 3600, nbf=now + 3600, exp=now + 7200),
        "of another cluster": signed(own, iss="lain/another"),
        "for another audience": signed(own, aud="another"),
        "never issued": signed(own, jti="never-issued"),
        "somebody else's name": signed(own, sub="somebody"),
    }


def operator_token(cluster: LocalCluster) -> str:
    return str(yaml.safe_load((cluster.home / "lain.conf.yaml").read_text())[cluster.name]["token"])


def encoded(document: Mapping[str, object]) -> str:
    return str(base64url_encode(json.dumps(document).encode()).decode())


def by_hand(claims: Mapping[str, object], secret: bytes, head: Mapping[str, str]) -> str:
    """HS256 with a public key as secret; by hand, because the library refuses to misuse a key so."""
    text = f"{encoded({'alg': 'HS256', 'typ': 'JWT', **head})}.{encoded(claims)}"
    return f"{text}.{base64url_encode(hmac.new(secret, text.encode(), hashlib.sha256).digest()).decode()}"


def with_token(token: str) -> list[Try]:
    return [(daemon, "127.0.0.1", port, True, path, token) for daemon, (port, path) in DAEMONS.items()]


def test_every_daemon_refuses_every_bad_token_and_takes_the_good_one(cluster: LocalCluster) -> None:
    for kind, token in bad_tokens(cluster).items():
        assert from_node(cluster, with_token(token)) == dict.fromkeys(DAEMONS, 401), kind
    assert from_node(cluster, with_token(operator_token(cluster))) == dict.fromkeys(DAEMONS, 200)


def test_a_revoked_token_is_refused_by_every_daemon(cluster: LocalCluster) -> None:
    issued = cluster.lainctl("token", "create", "leaver", "--role", "operator", "-o", "json").json()
    wait_until(
        lambda: set(from_node(cluster, with_token(issued["text"])).values()) == {200},
        "the new token is good everywhere",
    )
    cluster.lainctl("token", "revoke", issued["token"]["id"])
    wait_until(
        lambda: set(from_node(cluster, with_token(issued["text"])).values()) == {401},
        "the revoked one is good nowhere",
    )


# --- certificates -----------------------------------------------------------------------------------------------------

WRITES = r"""
import asyncio, json, sys
from pathlib import Path
from lain_shared.errors import Denied, LainError
from lain_shared.etcd import EtcdStore
from lain_shared.store import ABSENT

async def main():
    endpoint, cases = json.loads(sys.argv[1])
    found = []
    for user, key in cases:
        async with EtcdStore.connect([endpoint], tls_dir=Path("/etc/lain/tls") / user, timeout_seconds=3) as store:
            try:
                await store.put(key, b"{}", expect=ABSENT)
                found.append([user, key, "written"])
            except Denied:
                pass
            except LainError as error:
                found.append([user, key, repr(error)])
    print(json.dumps(found))

asyncio.run(main())
"""


def users() -> dict[str, tuple[str, str | None]]:
    """Folder under tls/ → (daemon, node)."""
    places = {daemon: ("n1" if keys.is_per_node(daemon) else None) for daemon in keys.DAEMONS}
    return {keys.user_of(daemon, node): (daemon, node) for daemon, node in places.items()}


def test_no_daemon_s_certificate_writes_another_s_family(cluster: LocalCluster, node: str) -> None:
    cases: list[tuple[str, str]] = []
    for user, (daemon, at) in users().items():
        allowed = [grant.prefix for grant in keys.grants(daemon, at) if grant.write]
        for family in keys.FAMILIES:
            key = family.key(*("another" for _ in family.parts))
            if not any(key.startswith(prefix) for prefix in allowed):
                cases.append((user, key))
    cases += [("etcd", keys.DESIRED.key("a", "b")), (keys.user_of(keys.AGENT, "n1"), keys.ALIVE.key("n2"))]
    assert len(cases) > 80
    told = cluster.on_node(
        "docker", "run", "--rm", "--network", "host", "--volume", "/etc/lain:/etc/lain:ro", "--entrypoint", "python3",
        images.TOOLS.tag, "-c", WRITES, json.dumps([f"{node}:2379", cases]),
    )  # fmt: skip
    assert json.loads(told.out) == []


def test_etcd_takes_no_stranger(cluster: LocalCluster) -> None:
    """No certificate, one of another authority, one that is for serving only: not even a connection."""
    script = """
mkdir -p /tmp/s && cd /tmp/s
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout key.pem -out cert.pem -subj /CN=root -days 1 2>/dev/null
try() { timeout 5 openssl s_client -tls1_2 -connect 127.0.0.1:2379 -CAfile /etc/lain/ca/ca.pem -alpn h2 "$@" </dev/null 2>&1; }
for case in none foreign registry watcher; do
    case $case in
        none) set -- ;;
        foreign) set -- -cert cert.pem -key key.pem ;;
        *) set -- -cert /etc/lain/tls/$case/cert.pem -key /etc/lain/tls/$case/key.pem ;;
    esac
    try "$@" | grep -q "alert" && echo "$case refused" || echo "$case taken"
done
rm -rf /tmp/s
"""
    told = cluster.on_node("bash", "-c", script).out.split("\n")
    assert told[:4] == ["none refused", "foreign refused", "registry refused", "watcher taken"]
