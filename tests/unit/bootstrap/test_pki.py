"""The authority and its certificates: what they say, whom TLS believes, when they are renewed."""

from __future__ import annotations

import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from lain_cli.bootstrap import pki
from lain_cli.bootstrap.pki import Leaf

NOW = datetime(2026, 1, 1, tzinfo=UTC)
CONSOLE = Leaf("console", ("10.0.0.11", "127.0.0.1", "localhost", "console"))


@pytest.fixture(scope="module")
def ca() -> pki.KeyPair:
    return pki.make_ca("test", NOW)


def test_a_leaf_answers_for_its_names_and_may_call_others(ca: pki.KeyPair) -> None:
    made = x509.load_pem_x509_certificate(pki.issue(ca, CONSOLE, NOW).certificate)
    names = made.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["localhost", "console"]
    assert [str(address) for address in names.get_values_for_type(x509.IPAddress)] == ["10.0.0.11", "127.0.0.1"]
    usages = list(made.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value)
    assert usages == [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
    assert not made.extensions.get_extension_for_class(x509.BasicConstraints).value.ca


def test_a_server_that_calls_nobody_cannot_pass_as_a_client(ca: pki.KeyPair) -> None:
    made = x509.load_pem_x509_certificate(
        pki.issue(ca, Leaf("registry", ("localhost",), client=False), NOW).certificate
    )
    assert list(made.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value) == [
        ExtendedKeyUsageOID.SERVER_AUTH
    ]


def test_openssl_takes_what_was_made(ca: pki.KeyPair, tmp_path: Path) -> None:
    pair = pki.issue(ca, CONSOLE, datetime.now(UTC))
    (tmp_path / "cert.pem").write_bytes(pair.certificate)
    (tmp_path / "key.pem").write_bytes(pair.key)
    context = ssl.create_default_context(cadata=ca.certificate.decode())
    context.load_cert_chain(tmp_path / "cert.pem", tmp_path / "key.pem")


@pytest.mark.parametrize(
    ("leaf", "after_days", "why"),
    [
        (CONSOLE, 0, None),
        (CONSOLE, pki.LEAF_DAYS - pki.RENEW_DAYS - 1, None),
        (CONSOLE, pki.LEAF_DAYS - pki.RENEW_DAYS + 1, "it ends"),
        (CONSOLE, pki.LEAF_DAYS + 1, "it ends"),
        (Leaf("console", ("10.0.0.12",)), 0, "other addresses"),
        (Leaf("watcher", CONSOLE.names), 0, "another name"),
    ],
)
def test_a_certificate_is_renewed_when_it_no_longer_serves(
    ca: pki.KeyPair, leaf: Leaf, after_days: int, why: str | None
) -> None:
    made = pki.issue(ca, CONSOLE, NOW).certificate
    found = pki.why_renew(ca.certificate, made, leaf, NOW + timedelta(days=after_days))
    assert (found is None) if why is None else (found is not None and why in found)


def test_another_authority_s_certificate_and_rubbish_are_replaced(ca: pki.KeyPair) -> None:
    foreign = pki.issue(pki.make_ca("test", NOW), CONSOLE, NOW).certificate
    assert pki.why_renew(ca.certificate, foreign, CONSOLE, NOW) == "another authority signed it"
    assert pki.why_renew(ca.certificate, b"rubbish", CONSOLE, NOW) == "it cannot be read"
