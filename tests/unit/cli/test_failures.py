"""What a person reads of a failure; and the file of a crash: it is sent to others, so it holds no secret, whatever was typed."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from lain_cli.failures import crash_report, tell
from lain_cli.render import when
from lain_shared.errors import Conflict


def test_a_moment_among_the_evidence_is_told_as_a_time() -> None:
    out = io.StringIO()
    tell(Conflict("hello is busy", evidence={"who": "eve", "started_at": 1_700_000_000.25}), out)
    assert f"  started at: {when(1_700_000_000)}\n" in out.getvalue() and "  who: eve\n" in out.getvalue()


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        ("lain ps -p prod -o json", "lain ps -p prod -o json"),
        ("lain config save prod token SECRET", "lain config save prod token ***"),
        ("lain -o json config save prod token SECRET", "lain -o json config save prod token ***"),
        ("lain -p x --output=json config -o json save prod -o json token SECRET SECRET",
         "lain -p x --output=*** config -o json save prod -o json token *** ***"),
        ("lain config save-global private_docker_registry SECRET", "lain config save-global private_docker_registry ***"),
        ("lain -p prod env set K=SECRET L=a=SECRET", "lain -p prod env set K=*** L=***"),
        ("lain env -p prod set --app hello K=SECRET K SECRET", "lain env -p prod set --app *** K=*** *** ***"),
        ("lain env set -- K=SECRET", "lain env set -- ***"),
        ("lain exec web -- mysql -pSECRET", "lain exec web -- ***"),
        ("lain dev run web --env K=SECRET", "lain dev run web --env K=***"),
        ("lain login -p prod --token SECRET --ca ca.pem", "lain login -p prod --token *** --ca ca.pem"),
        ("lain login --token=SECRET", "lain login --token=***"),
        ("lain -p", "lain -p"),
    ],
)  # fmt: skip
def test_no_secret_is_in_the_file_of_a_crash(tmp_path: Path, line: str, shown: str) -> None:
    path = crash_report(ZeroDivisionError("x"), tmp_path, line.split())
    assert path is not None
    first, *_ = path.read_text().splitlines()
    assert first == f"command: {shown}" and "SECRET" not in path.read_text()
