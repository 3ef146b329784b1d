"""Show the process's plain integers to Prometheus: a collector that reads them at scrape.

A counter costs the hot path one integer add; names, labels and text are made here, once a scrape, in the web thread.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib import metadata
from itertools import accumulate
from typing import Final, TypeAlias, TypeVar

from prometheus_client import CollectorRegistry, PlatformCollector, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from proxy import __version__
from proxy.stats import Histogram, Stats

__all__ = ["CollectorRegistry", "Gauges", "StatsCollector", "registry"]

ATTEMPTS: Final = 8
CLIENT_STATES: Final = ("active", "idle", "waiting", "judging", "login")
"""Each has its series from the start: an alert on one that is not there yet would never fire."""

T = TypeVar("T")

_Labelled: TypeAlias = Iterable[tuple[tuple[str, ...], float]]
"""Label values, in the order of the label names, and the value."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Gauges:
    """Hold what is true at one moment, and the counts that live outside Stats."""

    clients: Mapping[str, int] = field(default_factory=dict)
    """State, one of CLIENT_STATES, to count."""
    servers: Mapping[tuple[str, str], int] = field(default_factory=dict)
    """(database, state) to count: active, idle, cleaning, login."""
    waiting: int = 0
    """Clients in line for an upstream."""
    pinned: Mapping[str, int] = field(default_factory=dict)
    """Pin reason to the count of clients that hold one now."""
    maxwait_seconds: float = 0.0
    """How long the first client in line has waited (PgBouncer's `maxwait`)."""
    verdict_cache_hits: int = 0
    verdict_cache_misses: int = 0
    judged_by_names: Mapping[str, int] = field(default_factory=dict)
    """Why to the count of verdicts that were found without knowing what each name means."""
    verdict_cache_evictions: int = 0
    verdict_cache_bytes: int = 0
    catalog_ages: Mapping[str, float] = field(default_factory=dict)
    """Database to the seconds since its catalogue was loaded, or found to be up to date."""
    catalog_missing: Mapping[str, int] = field(default_factory=dict)
    """Database to 1 while it has no catalogue, and to 0."""
    catalog_unprinted: Mapping[str, int] = field(default_factory=dict)
    """Database to the count of objects that could not be printed because of locks."""
    role_findings: Mapping[tuple[str, str], int] = field(default_factory=dict)
    """(database, severity) to the count of what the role may do beside reading: info, warning, critical."""
    servers_newer: Mapping[str, int] = field(default_factory=dict)
    """Database to 1 where its server is newer than the grammar, otherwise 0."""
    poolers: Mapping[str, str] = field(default_factory=dict)
    """Database to what the pooler before it does with the server's sessions: session, shared."""
    certificate_ends: float = 0.0
    """Unix time at which the certificate that clients are shown ends; 0: there is none."""
    draining: bool = False
    audit_dropped: int = 0
    """Audit records that were not written (`Audit.dropped`)."""


class StatsCollector(Collector):
    """Collect one process's Stats and Gauges.

    Runs in the web thread while the event loop's thread counts on. Reading a plain int is safe: an attribute load gives
    one whole object, old or new, never half of one, and counters only grow. Two values read one after the other may be
    an event apart, which is so in every scrape. What is not safe is to walk a dict that another thread adds a key to:
    that raises RuntimeError ("dictionary changed size during iteration"), so every dict is copied first, and a failed
    copy is tried again (`_stable`). `gauges` is called in the web thread too and should copy before it walks; it is
    tried again in the same way.
    """

    def __init__(self, stats: Stats, gauges: Callable[[], Gauges]) -> None:
        self._stats = stats
        self._gauges = gauges
        self._build = (__version__, platform.python_version(), metadata.version("pglast"))

    def collect(self) -> Iterator[Metric]:
        """Return the metrics of this moment."""
        yield from self._families(self._stats, _stable(self._gauges))

    def describe(self) -> Iterator[Metric]:
        """Return the metrics' names without reading anything: the registry asks when the collector is registered."""
        yield from self._families(Stats(), Gauges())

    def _families(self, stats: Stats, gauges: Gauges) -> Iterator[Metric]:
        yield _gauge(
            "sidecart_build_info", "Versions of this process; the value is always 1.", _BUILD, [(self._build, 1)]
        )
        yield from _statements(stats)
        yield from _clients(stats, gauges)
        yield from _upstreams(stats, gauges)
        yield from _verdict_cache(gauges)
        yield from _catalogues(stats, gauges)
        yield from _roles(stats, gauges)
        yield _gauge(
            "sidecart_server_newer",
            "1 where a database's server is of a newer major version than the grammar that statements are read with.",
            ("database",),
            _by_one(gauges.servers_newer),
        )
        yield _gauge(
            "sidecart_pooler",
            "What a pooler in front of a database does with sessions (session, shared); the value is always 1.",
            ("database", "pooling"),
            [((database, pooling), 1) for database, pooling in dict(gauges.poolers).items()],
        )
        yield _counter(
            "sidecart_bugs_total", "Unexpected exceptions and tripwires; each ended its session.", stats.bugs
        )
        yield _counter(
            "sidecart_audit_dropped_total",
            "Audit records not written: the queue was full or the stream failed.",
            gauges.audit_dropped,
        )
        ends = gauges.certificate_ends
        yield _gauge(
            "sidecart_tls_certificate_end_seconds",
            "Unix time at which the certificate that clients are shown ends.",
            (),
            [((), ends)] if ends else [],
        )
        draining = int(gauges.draining)
        yield _gauge(
            "sidecart_draining", "1 while what runs is finished and nothing new is taken.", (), [((), draining)]
        )


_BUILD: Final = ("version", "python", "pglast")


def registry(stats: Stats, gauges: Callable[[], Gauges]) -> CollectorRegistry:
    """Return a registry of our metrics and the process's (CPU, memory, file descriptors, Python).

    It is not prometheus_client's global one, so that tests, and a second server in the same process, get their own.
    """
    own = CollectorRegistry()
    own.register(StatsCollector(stats, gauges))
    ProcessCollector(registry=own)
    PlatformCollector(registry=own)
    return own


def _statements(stats: Stats) -> Iterator[Metric]:
    yield _counters(
        "sidecart_statements_total",
        "Statements judged, by verdict (allow, refuse, replace, observe) and kind.",
        ("verdict", "kind"),
        _stable(lambda: dict(stats.statements)).items(),
    )
    yield _counters(
        "sidecart_refused_total",
        "Statements refused, by the rule that refused them.",
        ("rule",),
        _by_one(stats.refused),
    )
    yield _counters(
        "sidecart_observed_total",
        "Statements let through by filter.mode observe, by the rule that would have refused them.",
        ("rule",),
        _by_one(stats.observed),
    )
    yield _counters(
        "sidecart_limited_total",
        "Logins and statements refused because of a limit of connections or rates, by its key.",
        ("limit",),
        _by_one(stats.limited),
    )
    yield _counters(
        "sidecart_logins_refused_total",
        "Clients that were refused at login, by SQLSTATE.",
        ("sqlstate",),
        _by_one(stats.logins_refused),
    )
    yield _counter("sidecart_transactions_total", "Transactions ended.", stats.transactions)
    yield _counters(
        "sidecart_cancels_total", "Cancel requests of clients, by outcome.", ("outcome",), _by_one(stats.cancels)
    )


def _clients(stats: Stats, gauges: Gauges) -> Iterator[Metric]:
    yield _gauge("sidecart_clients", "Clients connected, by state.", ("state",), _by_one(gauges.clients))
    yield _counter("sidecart_clients_accepted_total", "Client connections accepted.", stats.clients_accepted)
    yield _counters(
        "sidecart_client_closes_total",
        "Client connections closed, by reason.",
        ("reason",),
        _by_one(stats.client_closes),
    )
    yield _counter("sidecart_client_received_bytes_total", "Bytes received from clients.", stats.client_bytes_received)
    yield _counter("sidecart_client_sent_bytes_total", "Bytes sent to clients.", stats.client_bytes_sent)
    yield _counters(
        "sidecart_pins_total",
        "Pins taken: session state that keeps a client on one upstream, by reason.",
        ("reason",),
        _by_one(stats.pins),
    )
    yield _gauge(
        "sidecart_pinned_clients",
        "Clients that hold a pin now, by reason.",
        ("reason",),
        _by_one(gauges.pinned),
    )
    yield _gauge("sidecart_waiting_clients", "Clients in line for an upstream.", (), [((), gauges.waiting)])
    yield _gauge(
        "sidecart_maxwait_seconds",
        "How long the first client in line has waited for an upstream.",
        (),
        [((), gauges.maxwait_seconds)],
    )
    yield _histogram("sidecart_queue_wait_seconds", "Time that clients waited for an upstream.", stats.queue_wait)


def _upstreams(stats: Stats, gauges: Gauges) -> Iterator[Metric]:
    yield _gauge(
        "sidecart_servers",
        "Upstream connections, by database and state.",
        ("database", "state"),
        dict(gauges.servers).items(),
    )
    yield _counter("sidecart_upstream_connects_total", "Upstream connections opened.", stats.upstream_connects)
    yield _counter(
        "sidecart_upstream_connect_failures_total",
        "Upstream connections that could not be opened.",
        stats.upstream_connect_failures,
    )
    yield _counters(
        "sidecart_credential_fetches_total",
        "Passwords of the role that were fetched, by source and outcome (ok, failed).",
        ("source", "outcome"),
        _stable(lambda: dict(stats.credential_fetches)).items(),
    )
    yield _counters(
        "sidecart_upstream_closes_total",
        "Upstream connections closed, by reason.",
        ("reason",),
        _by_one(stats.upstream_closes),
    )
    yield _counter(
        "sidecart_upstream_replays_total",
        "Leases of an upstream that needed settings or statements sent again; their share is that of the transactions.",
        stats.replays,
    )
    yield _counter(
        "sidecart_upstream_retries_total",
        "Statements that ran again on another upstream because theirs was lost.",
        stats.retries,
    )


def _verdict_cache(gauges: Gauges) -> Iterator[Metric]:
    yield _counter(
        "sidecart_verdict_cache_hits_total", "Statements whose verdict was cached.", gauges.verdict_cache_hits
    )
    yield _counter(
        "sidecart_verdict_cache_misses_total", "Statements that had to be parsed.", gauges.verdict_cache_misses
    )
    yield _counters(
        "sidecart_judged_by_names_total",
        "Those of which not every name is known, so that all that bears it was judged, by why.",
        ("why",),
        _by_one(gauges.judged_by_names),
    )
    yield _counter(
        "sidecart_verdict_cache_evictions_total",
        "Verdicts dropped from the cache to make room.",
        gauges.verdict_cache_evictions,
    )
    yield _gauge("sidecart_verdict_cache_bytes", "Size of the verdict cache.", (), [((), gauges.verdict_cache_bytes)])


def _catalogues(stats: Stats, gauges: Gauges) -> Iterator[Metric]:
    yield _gauge(
        "sidecart_catalog_age_seconds",
        "Time since a database's functions, views and types were last looked at.",
        ("database",),
        _by_one(gauges.catalog_ages),
    )
    yield _gauge(
        "sidecart_catalog_missing",
        "1 while a database has no catalogue: only what means the same in every database is let through.",
        ("database",),
        _by_one(gauges.catalog_missing),
    )
    yield _gauge(
        "sidecart_catalog_unprinted",
        "Views, policies and functions that could not be printed because of other sessions' locks.",
        ("database",),
        _by_one(gauges.catalog_unprinted),
    )
    yield _counters(
        "sidecart_catalog_loads_total",
        "Looks at the functions, views and types of a database, by outcome (changed, unchanged, failed).",
        ("outcome",),
        _by_one(stats.catalog_loads),
    )
    yield _counters(
        "sidecart_helper_starts_total",
        "Helper processes started, by what they do (texts, proofs).",
        ("helper",),
        _by_one(stats.helper_starts),
    )


def _roles(stats: Stats, gauges: Gauges) -> Iterator[Metric]:
    yield _gauge(
        "sidecart_role_findings",
        "What the role of a database may do beside reading, by severity (info, warning, critical); see doctor.",
        ("database", "severity"),
        dict(gauges.role_findings).items(),
    )
    yield _counters(
        "sidecart_role_checks_total",
        "Looks at what the role of a database may do, by outcome (done, failed).",
        ("outcome",),
        _by_one(stats.role_checks),
    )


def _counter(name: str, text: str, value: int) -> Metric:
    return CounterMetricFamily(name, text, value=value)


def _counters(name: str, text: str, labels: tuple[str, ...], values: _Labelled) -> Metric:
    family = CounterMetricFamily(name, text, labels=labels)
    for key, value in sorted(values):
        family.add_metric([_label(each) for each in key], value)
    return family


def _gauge(name: str, text: str, labels: tuple[str, ...], values: _Labelled) -> Metric:
    family = GaugeMetricFamily(name, text, labels=labels)
    for key, value in sorted(values):
        family.add_metric([_label(each) for each in key], value)
    return family


def _histogram(name: str, text: str, source: Histogram) -> Metric:
    # One copy of the counts, then sums over the copy: buckets that grow while they are read would not be cumulative.
    counts = source.counts.copy()
    bounds = [*map(floatToGoString, source.bounds), "+Inf"]
    family = HistogramMetricFamily(name, text)
    family.add_metric([], list(zip(bounds, accumulate(counts), strict=True)), source.total)
    return family


def _by_one(counts: Mapping[str, float]) -> _Labelled:
    return [((key,), value) for key, value in _stable(lambda: dict(counts)).items()]


def _label(value: str) -> str:
    # The text format is UTF-8: one lone surrogate in a database's name would fail the whole scrape.
    return value.encode("utf-8", "replace").decode()


def _stable(read: Callable[[], T]) -> T:
    """Return `read()`, tried again while another thread changes what it copies.

    dict() of a dict is one C call that keeps the GIL, so today the first try does it; a Python without the GIL, or a
    `gauges` that walks instead of copying, may need another.
    """
    for _ in range(ATTEMPTS - 1):
        try:
            return read()
        except RuntimeError:
            continue
    return read()
