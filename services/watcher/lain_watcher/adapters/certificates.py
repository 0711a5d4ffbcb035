"""Certificates from a directory: ``<name>.crt`` (the chain, leaf first) and ``<name>.key``; ``*.example.com`` or ``_wildcard.example.com``.

A pair that cannot be used is left out and reported: its hosts stay on plain HTTP, everything else goes on.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

from lain_watcher.table import Certificate

WILDCARD = "_wildcard."
WARN_SECONDS = 14 * 86_400
MAX_BYTES = 256 * 1024


@dataclass(frozen=True, slots=True)
class CertificateView:
    """A certificate as people are shown it. ``problem``: "" when it serves."""

    pattern: str
    names: tuple[str, ...] = ()
    issuer: str = ""
    not_after: float | None = None
    problem: str = ""
    served: bool = True


@dataclass(frozen=True, slots=True)
class Certificates:
    """What the directory holds: the usable ones by pattern, and what to tell of each."""

    usable: Mapping[str, Certificate] = field(default_factory=dict)
    views: tuple[CertificateView, ...] = ()
    torn: frozenset[str] = frozenset()
    """Patterns of which both files are there and cannot be used together: they may be being replaced, one after the other."""

    def after(self, before: Certificates) -> Certificates:
        """The same, where what served before serves on in place of a torn pair. Its problem is told all the same."""
        kept = {pattern: before.usable[pattern] for pattern in self.torn & before.usable.keys()}
        if not kept:
            return self
        views = tuple(
            replace(view, served=True, problem=f"{view.problem}; the pair before it serves on")
            if view.pattern in kept
            else view
            for view in self.views
        )
        return replace(self, usable={**self.usable, **kept}, views=views)


def read(directory: Path | None, *, now: float) -> Certificates:
    """Every pair in ``directory`` as it is now (``now``: epoch seconds). A missing directory holds none; never raises for a bad file."""
    if directory is None:
        return Certificates()
    try:
        stems = sorted({path.name.rsplit(".", 1)[0] for path in directory.iterdir() if path.suffix in (".crt", ".key")})
    except FileNotFoundError:
        return Certificates()
    except OSError as error:
        return Certificates(
            views=(CertificateView("*", problem=f"{directory} cannot be read: {error.strerror}", served=False),)
        )
    usable: dict[str, Certificate] = {}
    views = []
    torn: set[str] = set()
    for stem in stems:
        pattern = (f"*.{stem.removeprefix(WILDCARD)}" if stem.startswith(WILDCARD) else stem).lower()
        certificate, view = _read_pair(directory, stem, pattern, now)
        if certificate is not None and pattern not in usable:
            usable[pattern] = certificate
        elif certificate is None and all((directory / f"{stem}{suffix}").is_file() for suffix in (".crt", ".key")):
            torn.add(pattern)
        views.append(view)
    return Certificates(usable, tuple(views), frozenset(torn - usable.keys()))


def _read_pair(directory: Path, stem: str, pattern: str, now: float) -> tuple[Certificate | None, CertificateView]:
    try:
        chain_text, key_text = _text(directory / f"{stem}.crt"), _text(directory / f"{stem}.key")
        chain = x509.load_pem_x509_certificates(chain_text)
        key = load_pem_private_key(key_text, password=None)
    except (OSError, ValueError, TypeError, UnsupportedAlgorithm) as error:
        problem = f"{error.filename}: {error.strerror}" if isinstance(error, OSError) and error.strerror else str(error)
        return None, CertificateView(
            pattern, problem=problem.splitlines()[0] if problem else "unreadable", served=False
        )
    leaf = chain[0]
    ends = leaf.not_valid_after_utc.replace(tzinfo=datetime.UTC).timestamp()
    names = _names(leaf)
    view = CertificateView(pattern, names, leaf.issuer.rfc4514_string(), ends)
    form = (Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    if leaf.public_key().public_bytes(*form) != key.public_key().public_bytes(*form):
        return None, CertificateView(
            pattern, names, view.issuer, ends, "the key is not this certificate's", served=False
        )
    certificate = Certificate(pattern, chain_text.decode(), key_text.decode())
    return certificate, CertificateView(pattern, names, view.issuer, ends, _complaint(pattern, names, ends, now))


def _complaint(pattern: str, names: tuple[str, ...], ends: float, now: float) -> str:
    if ends <= now:
        return "it has expired"
    if ends - now < WARN_SECONDS:
        return f"it expires in {(ends - now) / 86_400:.0f} days"
    if pattern not in names and f"*.{pattern.partition('.')[2]}" not in names:
        return f"it does not name {pattern}"
    return ""


def _names(leaf: x509.Certificate) -> tuple[str, ...]:
    try:
        alternative = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except x509.ExtensionNotFound:
        return ()
    return tuple(str(name).lower() for name in alternative.value.get_values_for_type(x509.DNSName))


def _text(path: Path) -> bytes:
    text = path.read_bytes()
    if len(text) > MAX_BYTES:
        raise ValueError(f"{path.name} is larger than {MAX_BYTES} bytes")
    return text
