"""Every daemon's API as its OpenAPI document describes it, asked by schemathesis in all its phases; and by people whom nobody knows.

What schemathesis finds is a breach: a 5xx, an answer or a status the document does not know, a request that keeps to the document and is
refused for its form, one that breaks it and is taken. (A plan that is judged and refused, 422, keeps to the document.)
"""

from __future__ import annotations

import asyncio
import base64
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
from yarl import URL

from bench.stage.daemons import PORTS, Daemons

SCHEMATHESIS = Path(sys.executable).parent / "st"
RUN_SECONDS = 600
CONFIG = """
[checks]
positive_data_acceptance = { expected-statuses = ["2xx", "3xx", "401", "403", "404", "409", "422"] }

[[operations]] # a WebSocket: what is asked without an upgrade is refused
include-path-regex = "/exec/"
checks = { positive_data_acceptance = { enabled = false } }

[[operations]] # the token that all this is asked with must live on
include-path = "/api/v1/tokens/{id}/"
parameters = { id = "0000000000000000" }
checks = { ensure_resource_availability = { enabled = false } }
"""
SERVER_ERROR = "ST101"
PARAMETERS = """
[parameters]
%s
"""
PARAMETER = re.compile(r"{(\w+)}")


@dataclass(slots=True)
class Findings:
    """What one daemon's run found. ``server_errors`` and ``breaches``: by operation, in words."""

    cases: int = 0
    operations: int = 0
    server_errors: list[str] = field(default_factory=list)
    breaches: list[str] = field(default_factory=list)


def schemathesis(
    daemons: Daemons, name: str, *, examples: int, seed: int, known: Mapping[str, str | int] | None = None
) -> Findings:
    """All phases over one daemon, as its operator. ``known``: parameter → a value that exists, so that more than 404 is seen."""
    with tempfile.TemporaryDirectory(prefix="lain-st-") as folder:
        config, report = Path(folder) / "schemathesis.toml", Path(folder) / "report.json"
        fixed = "\n".join(f"{key} = {json.dumps(value)}" for key, value in (known or {}).items())
        config.write_text((PARAMETERS % fixed if fixed else "") + CONFIG)
        done = subprocess.run(
            [
                str(SCHEMATHESIS), "--config-file", str(config), "run", f"{daemons.url(name)}/openapi.json",
                "--tls-verify", str(daemons.ca), "--header", f"Authorization: Bearer {daemons.token}",
                "--max-examples", str(examples), "--seed", str(seed), "--continue-on-failure",
                "--generation-database", "none", "--request-timeout", "30", "--no-color",
                "--report", "json", "--report-json-path", str(report),
            ],
            capture_output=True, text=True, timeout=RUN_SECONDS, check=False, cwd=folder,
        )  # fmt: skip
        if not report.exists():
            raise RuntimeError(f"schemathesis made no report of {name}: {done.stdout[-2000:]} {done.stderr[-2000:]}")
        return _read(json.loads(report.read_text()))


def _read(report: Mapping[str, Any]) -> Findings:
    found = Findings(report["test_cases"]["generated"], report["operations"]["tested"])
    for failure in report["failures"]:
        texts = [f"{failure['title']}: {operation}" for operation in failure["operations"]]
        (found.server_errors if failure["code"] == SERVER_ERROR else found.breaches).extend(texts)
    found.breaches += [f"{error['title']}, {error['count']} times" for error in report["errors"]]
    if not report["complete"] or report["operations"]["tested"] < report["operations"]["selected"]:
        found.breaches.append(f"not every operation was tested: {report['operations']}, {report['stop_reason']}")
    return found


# --- whom nobody knows ------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Strangers:
    """``asked``: requests. ``accepted``: those that were not refused, or not by 401 or 403."""

    asked: int = 0
    accepted: list[str] = field(default_factory=list)
    server_errors: list[str] = field(default_factory=list)


def strangers(daemons: Daemons, viewer: str, more: Mapping[str, str]) -> Strangers:
    """Each operation that is not public, asked with every wrong credential there is. ``viewer`` may read one app, which is not the one
    asked of. ``more``: in words → tokens that were good once.
    """
    return asyncio.run(_strangers(daemons, viewer, more))


async def _strangers(daemons: Daemons, viewer: str, more: Mapping[str, str]) -> Strangers:
    found = Strangers()
    wrong = wrong_credentials(daemons.token) | {what: f"Bearer {text}" for what, text in more.items()}
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=daemons.tls)) as session:
        for name in PORTS:
            document = json.loads(daemons.fetch(name, "/openapi.json"))
            for path, operations in document["paths"].items():
                url = URL(daemons.url(name) + PARAMETER.sub("1", path), encoded=True)
                for method, operation in operations.items():
                    access = operation["x-lain-access"]
                    if access == "public":
                        continue
                    tried = dict(wrong)
                    if access not in ("authenticated", "read") or "{app}" in path:
                        tried["a viewer of another app"] = f"Bearer {viewer}"
                    for what, header in tried.items():
                        await _ask(session, found, (method, url), (what, header))
    return found


async def _ask(
    session: aiohttp.ClientSession, found: Strangers, asked: tuple[str, URL], credential: tuple[str, str | None]
) -> None:
    (method, url), (what, header) = asked, credential
    found.asked += 1
    headers = {"Content-Type": "application/json"} | ({} if header is None else {"Authorization": header})
    async with session.request(method, url, headers=headers, data=b"{}") as answer:
        await answer.read()
        if answer.status >= 500:
            found.server_errors.append(f"{method.upper()} {url} with {what}: {answer.status}")
        elif answer.status not in (401, 403):
            found.accepted.append(f"{method.upper()} {url} with {what}: {answer.status}")


def wrong_credentials(token: str) -> dict[str, str | None]:
    """In words → the ``Authorization`` header, or none."""
    head, body, signature = token.split(".")
    claims = json.loads(_unpacked(body))
    later = _packed({**claims, "exp": claims["exp"] + 10_000_000})
    none = _packed({**json.loads(_unpacked(head)), "alg": "none"})
    symmetric = _packed({**json.loads(_unpacked(head)), "alg": "HS256"})
    return {
        "nothing": None,
        "an empty bearer": "Bearer ",
        "a word": "Bearer operator",
        "a password": "Basic " + base64.b64encode(b"operator:operator").decode(),
        "no scheme": token,
        "a token cut short": f"Bearer {token[:-4]}",
        "another signature": f"Bearer {head}.{body}.{signature[::-1]}",
        "a later expiry": f"Bearer {head}.{later}.{signature}",
        "no algorithm": f"Bearer {none}.{body}.",
        "another algorithm": f"Bearer {symmetric}.{body}.{signature}",
        "no claims": f"Bearer {head}.{_packed({})}.{signature}",
        "a token twice": f"Bearer {token} {token}",
        "dots": "Bearer ..",
        "10,000 characters": "Bearer " + "a" * 10_000,
    }  # fmt: skip


def _unpacked(part: str) -> bytes:
    return base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))


def _packed(document: Mapping[str, Any]) -> str:
    return base64.urlsafe_b64encode(json.dumps(document).encode()).rstrip(b"=").decode()
