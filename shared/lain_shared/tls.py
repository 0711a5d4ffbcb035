"""TLS between LAIN's parts: one cluster CA; TLS 1.2 or newer; a client's certificate, if it shows one, must be the CA's."""

from __future__ import annotations

import ssl
from pathlib import Path

from lain_shared.errors import Unavailable

CA, CERTIFICATE, KEY = "ca.pem", "cert.pem", "key.pem"


class BadCertificates(Unavailable):
    code = "bad_certificates"


def server_context(directory: Path) -> ssl.SSLContext:
    """For a daemon's API. ``directory`` holds ``ca.pem cert.pem key.pem``. Clients may come without a certificate (with a token)."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    _load(context, directory, directory / CA)
    context.verify_mode = ssl.CERT_OPTIONAL
    return context


def client_context(directory: Path | None = None, *, ca: Path | None = None) -> ssl.SSLContext:
    """For calling an API: verified by the cluster CA (``ca``, or the directory's), showing the directory's certificate if given.

    With neither, the system's authorities are trusted.
    """
    ours = directory is not None or ca is not None
    # with an authority of our own no other is trusted: create_default_context would add the system's
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT) if ours else ssl.create_default_context(ssl.Purpose.SERVER_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if directory is not None:
        _load(context, directory, ca or directory / CA)
    elif ca is not None:
        _trust(context, ca)
    return context


def _load(context: ssl.SSLContext, directory: Path, ca: Path) -> None:
    _trust(context, ca)
    try:
        context.load_cert_chain(directory / CERTIFICATE, directory / KEY)
    except (OSError, ssl.SSLError) as error:
        raise BadCertificates(
            f"the certificate in {directory} cannot be used",
            why=str(error),
            next=f"put {CERTIFICATE} and {KEY} there, readable by this user",
        ) from error


def _trust(context: ssl.SSLContext, ca: Path) -> None:
    try:
        context.load_verify_locations(ca)
    except (OSError, ssl.SSLError) as error:
        raise BadCertificates(
            f"the authority {ca} cannot be used", why=str(error), next="check the file and its permissions"
        ) from error
