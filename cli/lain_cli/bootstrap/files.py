"""Certificates and credentials on disk: made when missing, renewed when due, else left alone. An existing authority is never replaced."""

from __future__ import annotations

import os
import secrets
import tempfile
from datetime import datetime
from pathlib import Path

import bcrypt

from lain_cli.bootstrap import pki
from lain_cli.bootstrap.layout import DATA, REGISTRY_USERS, UIDS, Identity, Spec, identities
from lain_shared import keys
from lain_shared.errors import LainError
from lain_shared.tls import CA, CERTIFICATE, KEY

HASH_ROUNDS = 5
"""bcrypt's cost in the htpasswd: the passwords are 256 random bits, so it need not be slow, and the registry checks it at each call."""


class BootstrapFailed(LainError):
    code = "bootstrap_failed"


def make_files(root: Path, data: Path, spec: Spec, now: datetime) -> tuple[str, ...]:
    """Bring ``root`` (``/etc/lain``) to what ``spec`` asks; returns one line for each thing made or renewed.

    ``data`` (``/var/lib/lain``) gets one folder for each part that keeps something, owned by that part's user.

    Restart the daemon of a renewed certificate: it was read at its start. Raises ``BootstrapFailed`` when a certificate is due and the
    authority's key is not here, and when the folder belongs to another cluster's authority.
    """
    done: list[str] = []
    for folder in (root, root / "tls", root / "secrets"):
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o755)
    ca = _authority(root / "ca", spec, now, done)
    for identity in identities(spec):
        _identity(root / "tls" / identity.user, identity, ca, now, done)
    _signing_key(root / "secrets" / keys.CONSOLE, done)
    _registry_users(root / "secrets", done)
    _private_folder(root / "secrets" / "client", 0)
    data.mkdir(parents=True, exist_ok=True)
    for name, (owner, mode) in DATA.items():
        (data / name).mkdir(exist_ok=True)
        (data / name).chmod(mode)
        _own(data / name, UIDS[owner])
    return tuple(done)


def _authority(folder: Path, spec: Spec, now: datetime, done: list[str]) -> pki.KeyPair:
    _private_folder(folder, 0)
    certificate, key = folder / CA, folder / "ca-key.pem"
    if certificate.exists():
        return pki.KeyPair(certificate.read_bytes(), key.read_bytes() if key.exists() else b"")
    made = pki.make_ca(spec.cluster, now)
    write(key, made.key, uid=0, mode=0o600)  # the key first: a certificate without its key could never be completed
    write(certificate, made.certificate, uid=0, mode=0o644)
    done.append(f"made the authority of cluster {spec.cluster}")
    return made


def _identity(folder: Path, identity: Identity, ca: pki.KeyPair, now: datetime, done: list[str]) -> None:
    _private_folder(folder, identity.uid)
    certificate = folder / CERTIFICATE
    why: str | None = "made"
    if certificate.exists() and (folder / KEY).exists():
        why = pki.why_renew(ca.certificate, certificate.read_bytes(), identity.leaf, now)
    if why is not None:
        if not ca.key:
            raise BootstrapFailed(
                f"the certificate of {identity.user} is due ({why}), and the authority's key is not on this machine",
                next="run this where ca/ca-key.pem is",
            )
        made = pki.issue(ca, identity.leaf, now)
        write(folder / KEY, made.key, uid=identity.uid, mode=0o600)
        write(certificate, made.certificate, uid=identity.uid, mode=0o644)
        done.append(f"certificate of {identity.user}: {why}")
    if not (folder / CA).exists() or (folder / CA).read_bytes() != ca.certificate:
        write(folder / CA, ca.certificate, uid=identity.uid, mode=0o644)


def _signing_key(folder: Path, done: list[str]) -> None:
    uid = UIDS[keys.CONSOLE]
    _private_folder(folder, uid)
    if not (folder / "signing-key.pem").exists():
        write(folder / "signing-key.pem", pki.key_pem(pki.new_key()), uid=uid, mode=0o600)
        done.append("made the key that signs tokens")


def _registry_users(root: Path, done: list[str]) -> None:
    htpasswd = root / "registry" / "htpasswd"
    _private_folder(htpasswd.parent, UIDS["registry"])
    lines: list[str] = []
    changed = not htpasswd.exists()
    for user, owner in REGISTRY_USERS.items():
        uid = UIDS.get(owner, 0)
        _private_folder(root / owner, uid)
        file = root / owner / "registry-password"
        if not file.exists():
            write(file, secrets.token_urlsafe(32).encode(), uid=uid, mode=0o600)
            changed = True
        hashed = bcrypt.hashpw(file.read_bytes().strip(), bcrypt.gensalt(HASH_ROUNDS))
        lines.append(f"{user}:{hashed.decode()}")
    if changed:
        write(htpasswd, ("\n".join(lines) + "\n").encode(), uid=UIDS["registry"], mode=0o600)
        done.append(f"made the registry's users: {', '.join(REGISTRY_USERS)}")


def _private_folder(folder: Path, uid: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o700)
    _own(folder, uid)


def write(path: Path, data: bytes, *, uid: int, mode: int) -> None:
    """Replace a file whole: a reader sees the old or the new one, and nobody else ever sees a key."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).chmod(mode)
        _own(Path(temporary), uid)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _own(path: Path, uid: int) -> None:
    """Give a file away; only root can, and only root's bootstrap needs to (elsewhere everything runs as one user)."""
    if os.geteuid() == 0:
        os.chown(path, uid, uid)
