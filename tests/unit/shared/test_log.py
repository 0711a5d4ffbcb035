"""Log lines never hold a secret that a field's name gives away."""

from __future__ import annotations

import json

from lain_shared.log import REDACTED, redact, render


def test_secrets_are_blanked_by_name() -> None:
    event = {
        "event": "x",
        "token": "abc",
        "registry_password": b"p",
        "Authorization": "Bearer y",
        "tokens_listed": 3,
        "app": "hello",
    }
    shown = redact(None, "info", dict(event))
    assert shown == {**event, "token": REDACTED, "registry_password": REDACTED, "Authorization": REDACTED}


def test_a_line_is_json_whatever_it_holds() -> None:
    assert json.loads(render(None, "info", {"event": "x", "thing": object, "text": 'a"\n'}))["text"] == 'a"\n'


def test_a_key_that_is_no_text_can_be_told_all_the_same() -> None:
    """A line that cannot be written would end whoever wanted to write it."""
    key = b"/lain/nodes/\xff".decode("utf-8", "surrogateescape")
    assert json.loads(render(None, "error", {"event": "record_unreadable", "key": key, "of": object}))["key"] == key
