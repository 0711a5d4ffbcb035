"""What is published of an nginx that is not there, or not yet."""

from __future__ import annotations

from prometheus_client import CollectorRegistry

from lain_watcher.adapters.nginx import NginxState
from lain_watcher.metrics import Metrics
from lain_watcher.router import STARTING, Router
from lain_watcher.routes import Verdict
from lain_watcher.table import Table, encode


def saved(router: Router, revision: int) -> None:
    """A table of this revision was planned and written to disk."""
    table = Table(revision)
    router.on_disk = encode(table)
    router.accept(Verdict(table), router.on_disk)


def told(router: Router) -> tuple[str, int]:
    return router.report.boot_id, router.report.applied_revision


def test_a_table_counts_only_once_nginx_was_seen_absent_after_it_was_written() -> None:
    """Between the look and the write an nginx may have started from the older table."""
    router = Router("r1", Metrics(CollectorRegistry()))
    saved(router, 1)
    router.observe(None)
    saved(router, 2)
    assert told(router) == ("", 1)
    router.observe(None)
    assert told(router) == ("", 2)


def test_an_nginx_that_starts_exists() -> None:
    router = Router("r1", Metrics(CollectorRegistry()))
    saved(router, 1)
    router.observe(None)
    router.fall_silent("it starts")
    saved(router, 2)
    assert told(router) == (STARTING, 1)
    router.observe(None)
    assert told(router) == ("", 2)


def test_a_silent_nginxs_last_word_stands() -> None:
    router = Router("r1", Metrics(CollectorRegistry()))
    saved(router, 1)
    router.observe(NginxState("boot", version="old", revision=1))
    router.fall_silent("it stops")
    saved(router, 2)
    assert told(router) == ("boot", 1)
