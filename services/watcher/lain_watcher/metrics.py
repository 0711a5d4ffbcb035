"""What a watcher counts. Labels come from closed sets, zeroed at start; except the app of a request, which goes when the app does."""

from __future__ import annotations

from collections.abc import Collection

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from lain_shared.model.traffic import Counts


class Metrics:
    """The watcher's own metrics; loops and HTTP add theirs to the same registry."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def gauge(name: str, says: str) -> Gauge:
            return Gauge(f"lain_watcher_{name}", says, registry=registry)

        self.applied_revision = gauge("applied_revision", "Store revision up to which nginx serves every change.")
        self.hosts = gauge("hosts", "Host names in the table.")
        self.procs = gauge("procs", "Procs in the table.")
        self.table_bytes = gauge("table_bytes", "Size of the table's text.")
        self.quarantined = gauge("quarantined_apps", "Apps whose routes or options are not as they asked.")
        self.not_applied = gauge("not_applied_apps", "Apps whose addresses could not be applied.")
        self.guard = gauge("guard_held", "1 while a sudden loss of hosts is held back.")
        self.nginx_up = gauge("nginx_up", "1 while an nginx answers on the control socket.")
        self.inflight = gauge("inflight_requests", "Requests in flight, WebSockets included.")
        self.busy_draining = gauge("busy_draining_addresses", "Draining addresses that still have work in flight.")
        self.ejected = gauge("ejected_backends", "Backends that refused connections lately.")
        self.all_ejected = gauge("procs_all_ejected", "Procs all of whose ready backends refused connections lately.")
        self.heard_seconds = gauge("store_silence_seconds", "Seconds since the last sign of life from etcd.")
        self.certificate_problems = gauge("certificate_problems", "Certificates with a problem.")
        self.certificate_expiry = gauge(
            "certificate_first_expiry_seconds",
            "Epoch seconds at which the first served certificate ends (0: there is none).",
        )
        self.nginx_starts = Counter(
            "lain_watcher_nginx_starts_total", "Starts of nginx that were noticed.", registry=registry
        )
        self.swaps = Counter("lain_watcher_table_swaps_total", "Tables put into nginx.", ["outcome"], registry=registry)
        self.swap_seconds = Histogram(
            "lain_watcher_table_swap_seconds",
            "From the plan to the acknowledgement of every worker.",
            buckets=(0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2),
            registry=registry,
        )
        for outcome in ("applied", "refused", "absent"):
            self.swaps.labels(outcome)
        self.requests = Counter(
            "lain_watcher_requests_total",
            "Requests that ended, by app, since this watcher started.",
            ["app"],
            registry=registry,
        )
        self.failed_requests = Counter(
            "lain_watcher_failed_requests_total",
            "Of them, failed ones, by whose fault: router (5xx of its own, answers broken off), app (its own 5xx), client (left first).",
            ["app", "fault"],
            registry=registry,
        )
        self.uncounted_requests = Counter(
            "lain_watcher_uncounted_requests_total", "Requests that nginx had no room to count.", registry=registry
        )
        self._apps: set[str] = set()

    def count_traffic(self, app: str, counts: Counts) -> None:
        """Add what nginx counted of one app."""
        self._apps.add(app)
        self.requests.labels(app).inc(counts.requests)
        faults = (("router", counts.errors), ("app", counts.app_errors), ("client", counts.aborted))
        for fault, failed in faults:
            self.failed_requests.labels(app, fault).inc(failed)

    def keep_traffic_of(self, apps: Collection[str]) -> None:
        """Tell no more of apps other than these."""
        for app in self._apps.difference(apps):
            self._apps.discard(app)
            self.requests.remove(app)
            for fault in ("router", "app", "client"):
                self.failed_requests.remove(app, fault)
