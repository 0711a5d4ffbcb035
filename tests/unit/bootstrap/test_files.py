"""What bootstrap leaves on disk: whose, how secret, and that doing it again changes nothing."""

from __future__ import annotations

import os
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import bcrypt
import pytest

from lain_cli.bootstrap import pki
from lain_cli.bootstrap.files import BootstrapFailed, make_files
from lain_cli.bootstrap.layout import REGISTRY_USERS, Spec, identities
from lain_shared.tls import client_context, server_context

NOW = datetime(2026, 1, 1, tzinfo=UTC)
SPEC = Spec("test", "n1", "10.0.0.11")


def snapshot(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


@pytest.fixture
def made(tmp_path: Path) -> Path:
    make_files(tmp_path / "etc", tmp_path / "data", SPEC, NOW)
    return tmp_path


def test_every_daemon_has_a_certificate_that_tls_takes(made: Path) -> None:
    for identity in identities(SPEC):
        folder = made / "etc/tls" / identity.user
        client_context(folder)
        if identity.leaf.names:
            server_context(folder)


def test_every_secret_is_its_owner_s_alone(made: Path) -> None:
    secret = [path for path in (made / "etc").rglob("*") if path.is_file() and path.suffix != ".pem"]
    secret += list((made / "etc").rglob("*key.pem"))
    assert len(secret) >= 12
    for path in secret:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700, path
    if os.geteuid() == 0:
        assert (made / "etc/secrets/console/signing-key.pem").stat().st_uid == 9510
        assert (made / "etc/tls/etcd/key.pem").stat().st_uid == 2379
        assert (made / "data/registry").stat().st_uid == 5000


def test_again_changes_nothing(made: Path) -> None:
    before = snapshot(made)
    assert make_files(made / "etc", made / "data", SPEC, NOW + timedelta(days=1)) == ()
    assert snapshot(made) == before


def test_a_new_address_renews_certificates_and_nothing_else(made: Path) -> None:
    before = snapshot(made / "etc")
    done = make_files(made / "etc", made / "data", Spec("test", "n1", "10.0.0.12"), NOW)
    assert {line.partition(":")[0] for line in done} == {
        f"certificate of {identity.user}" for identity in identities(SPEC) if identity.leaf.names
    }
    after = snapshot(made / "etc")
    changed = {name for name in before if before[name] != after[name]}
    assert changed and all(name.startswith("tls/") for name in changed)


def test_what_was_lost_half_way_is_made_and_the_rest_kept(made: Path) -> None:
    before = snapshot(made / "etc")
    (made / "etc/tls/console/key.pem").unlink()
    (made / "etc/secrets/registry/htpasswd").unlink()
    make_files(made / "etc", made / "data", SPEC, NOW)
    after = snapshot(made / "etc")
    assert set(after) == set(before)
    assert before["ca/ca.pem"] == after["ca/ca.pem"]
    assert before["secrets/agent/registry-password"] == after["secrets/agent/registry-password"]


def test_without_the_authority_s_key_a_due_certificate_is_refused_not_replaced(made: Path) -> None:
    before = snapshot(made / "etc/ca")["ca.pem"]
    (made / "etc/ca/ca-key.pem").unlink()
    assert make_files(made / "etc", made / "data", SPEC, NOW) == ()
    with pytest.raises(BootstrapFailed, match=r"the authority's key is not on this machine"):
        make_files(made / "etc", made / "data", SPEC, NOW + timedelta(days=pki.LEAF_DAYS - pki.RENEW_DAYS + 1))
    assert (made / "etc/ca/ca.pem").read_bytes() == before


def test_the_registry_knows_each_user_by_its_own_password(made: Path) -> None:
    lines = (made / "etc/secrets/registry/htpasswd").read_text().splitlines()
    hashes = dict(line.split(":", 1) for line in lines)
    assert set(hashes) == set(REGISTRY_USERS)
    for user, owner in REGISTRY_USERS.items():
        password = (made / "etc/secrets" / owner / "registry-password").read_bytes()
        assert len(password) >= 43
        assert bcrypt.checkpw(password, hashes[user].encode())
        assert sum(bcrypt.checkpw(password, other.encode()) for other in hashes.values()) == 1
