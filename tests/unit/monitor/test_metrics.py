"""The Prometheus collector: names, values, the text format, and reading while another thread counts."""

from __future__ import annotations

import re
import shutil
import subprocess
import threading
from collections import defaultdict
from collections.abc import Iterator

import pytest
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from proxy import __version__
from proxy.monitor import metrics
from proxy.monitor.metrics import CollectorRegistry, Gauges
from proxy.stats import Stats

# The vocabulary that dashboards key on. A rename is a breaking change: it is meant to fail here first.
NAMES = {
    "sidecart_audit_dropped_total": "counter",
    "sidecart_bugs_total": "counter",
    "sidecart_build_info": "gauge",
    "sidecart_cancels_total": "counter",
    "sidecart_catalog_age_seconds": "gauge",
    "sidecart_catalog_loads_total": "counter",
    "sidecart_catalog_missing": "gauge",
    "sidecart_catalog_unprinted": "gauge",
    "sidecart_client_closes_total": "counter",
    "sidecart_client_received_bytes_total": "counter",
    "sidecart_client_sent_bytes_total": "counter",
    "sidecart_clients": "gauge",
    "sidecart_clients_accepted_total": "counter",
    "sidecart_draining": "gauge",
    "sidecart_tls_certificate_end_seconds": "gauge",
    "sidecart_helper_starts_total": "counter",
    "sidecart_limited_total": "counter",
    "sidecart_logins_refused_total": "counter",
    "sidecart_maxwait_seconds": "gauge",
    "sidecart_observed_total": "counter",
    "sidecart_pinned_clients": "gauge",
    "sidecart_pins_total": "counter",
    "sidecart_queue_wait_seconds": "histogram",
    "sidecart_refused_total": "counter",
    "sidecart_role_checks_total": "counter",
    "sidecart_pooler": "gauge",
    "sidecart_server_newer": "gauge",
    "sidecart_role_findings": "gauge",
    "sidecart_judged_by_names_total": "counter",
    "sidecart_servers": "gauge",
    "sidecart_statements_total": "counter",
    "sidecart_transactions_total": "counter",
    "sidecart_upstream_closes_total": "counter",
    "sidecart_upstream_connect_failures_total": "counter",
    "sidecart_upstream_connects_total": "counter",
    "sidecart_credential_fetches_total": "counter",
    "sidecart_upstream_replays_total": "counter",
    "sidecart_upstream_retries_total": "counter",
    "sidecart_verdict_cache_bytes": "gauge",
    "sidecart_verdict_cache_evictions_total": "counter",
    "sidecart_verdict_cache_hits_total": "counter",
    "sidecart_verdict_cache_misses_total": "counter",
    "sidecart_waiting_clients": "gauge",
}


def filled() -> tuple[Stats, Gauges]:
    """Give every counter another value, so that two that are swapped show."""
    stats = Stats()
    stats.bugs = 1
    stats.limited["statement_rate"] = 32
    stats.logins_refused["28P01"] = 33
    stats.clients_accepted = 2
    stats.client_closes["client_lost"] = 3
    stats.client_bytes_received = 4
    stats.client_bytes_sent = 5
    stats.statements["allow", "select"] = 6
    stats.statements["refuse", "insert"] = 7
    stats.refused["stmt-insert"] = 8
    stats.pins["hold_cursor"] = 9
    stats.observed["ddl"] = 27
    stats.catalog_loads["failed"] = 28
    stats.role_checks["done"] = 32
    stats.helper_starts["texts"] = 29
    stats.cancels["sent"] = 10
    stats.replays = 11
    stats.credential_fetches["aws_secret", "failed"] = 32
    stats.retries = 31
    stats.transactions = 12
    stats.upstream_connects = 13
    stats.upstream_connect_failures = 14
    stats.upstream_closes["server_lifetime"] = 15
    for seconds in (0.00005, 0.001, 0.02, 0.02, 100.0):
        stats.queue_wait.observe(seconds)
    gauges = Gauges(
        clients={"active": 16, "idle": 17},
        servers={("shop", "idle"): 18, ("shop", "active"): 19},
        waiting=20,
        pinned={"listen": 21},
        maxwait_seconds=2.5,
        verdict_cache_hits=22,
        verdict_cache_misses=23,
        judged_by_names={"rejected": 37},
        verdict_cache_evictions=24,
        verdict_cache_bytes=25,
        catalog_ages={"shop": 30.5},
        catalog_missing={"shop": 34},
        catalog_unprinted={"shop": 35},
        role_findings={("shop", "critical"): 33},
        poolers={"shop": "session"},
        servers_newer={"shop": 36},
        certificate_ends=34.0,
        draining=True,
        audit_dropped=26,
    )
    return stats, gauges


def scrape(stats: Stats, gauges: Gauges) -> str:
    return generate_latest(metrics.registry(stats, lambda: gauges)).decode()


def values(text: str) -> dict[str, float]:
    """Return every sample as `name{a="b"}` to value."""
    samples = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = ",".join(f"{name}={value}" for name, value in sorted(sample.labels.items()))
            samples[f"{sample.name}{{{labels}}}" if labels else sample.name] = sample.value
    return samples


def test_every_name_with_its_type_and_no_other() -> None:
    text = scrape(*filled())
    found = dict(re.findall(r"^# TYPE (sidecart_\S+) (\S+)$", text, re.MULTILINE))
    assert found == NAMES


def test_each_value_stands_under_its_name() -> None:
    found = values(scrape(*filled()))
    expected = {
        "sidecart_bugs_total": 1,
        "sidecart_limited_total{limit=statement_rate}": 32,
        "sidecart_logins_refused_total{sqlstate=28P01}": 33,
        "sidecart_clients_accepted_total": 2,
        "sidecart_client_closes_total{reason=client_lost}": 3,
        "sidecart_client_received_bytes_total": 4,
        "sidecart_client_sent_bytes_total": 5,
        "sidecart_statements_total{kind=select,verdict=allow}": 6,
        "sidecart_statements_total{kind=insert,verdict=refuse}": 7,
        "sidecart_refused_total{rule=stmt-insert}": 8,
        "sidecart_pins_total{reason=hold_cursor}": 9,
        "sidecart_observed_total{rule=ddl}": 27,
        "sidecart_role_checks_total{outcome=done}": 32,
        "sidecart_role_findings{database=shop,severity=critical}": 33,
        "sidecart_pooler{database=shop,pooling=session}": 1,
        "sidecart_server_newer{database=shop}": 36,
        "sidecart_catalog_loads_total{outcome=failed}": 28,
        "sidecart_helper_starts_total{helper=texts}": 29,
        "sidecart_catalog_age_seconds{database=shop}": 30.5,
        "sidecart_catalog_missing{database=shop}": 34,
        "sidecart_catalog_unprinted{database=shop}": 35,
        "sidecart_cancels_total{outcome=sent}": 10,
        "sidecart_upstream_replays_total": 11,
        "sidecart_upstream_retries_total": 31,
        "sidecart_transactions_total": 12,
        "sidecart_upstream_connects_total": 13,
        "sidecart_credential_fetches_total{outcome=failed,source=aws_secret}": 32,
        "sidecart_upstream_connect_failures_total": 14,
        "sidecart_upstream_closes_total{reason=server_lifetime}": 15,
        "sidecart_clients{state=active}": 16,
        "sidecart_clients{state=idle}": 17,
        "sidecart_servers{database=shop,state=idle}": 18,
        "sidecart_servers{database=shop,state=active}": 19,
        "sidecart_waiting_clients": 20,
        "sidecart_pinned_clients{reason=listen}": 21,
        "sidecart_maxwait_seconds": 2.5,
        "sidecart_verdict_cache_hits_total": 22,
        "sidecart_verdict_cache_misses_total": 23,
        "sidecart_judged_by_names_total{why=rejected}": 37,
        "sidecart_verdict_cache_evictions_total": 24,
        "sidecart_verdict_cache_bytes": 25,
        "sidecart_tls_certificate_end_seconds": 34,
        "sidecart_draining": 1,
        "sidecart_audit_dropped_total": 26,
    }
    plain = {name: value for name, value in found.items() if name.startswith("sidecart_")}
    plain = {name: value for name, value in plain.items() if not re.match("sidecart_(queue_wait|build)", name)}
    assert plain == expected


def test_histogram_is_cumulative() -> None:
    found = values(scrape(*filled()))
    buckets = {name: value for name, value in found.items() if "queue_wait_seconds_bucket" in name}
    assert list(buckets.values()) == [1, 2, 2, 2, 4, 4, 4, 4, 4, 4, 4, 5]
    assert buckets["sidecart_queue_wait_seconds_bucket{le=0.0001}"] == 1
    assert buckets["sidecart_queue_wait_seconds_bucket{le=0.001}"] == 2  # le is "less or equal"
    assert buckets["sidecart_queue_wait_seconds_bucket{le=+Inf}"] == 5
    assert found["sidecart_queue_wait_seconds_count"] == 5
    assert found["sidecart_queue_wait_seconds_sum"] == pytest.approx(100.04105)


def test_build_info_names_the_versions() -> None:
    (name,) = [name for name in values(scrape(Stats(), Gauges())) if name.startswith("sidecart_build_info")]
    assert f"version={__version__}" in name
    assert re.search(r"pglast=\d+\.\d+", name)
    assert re.search(r"python=3\.\d+", name)


def test_counters_without_labels_begin_at_zero() -> None:
    found = values(scrape(Stats(), Gauges()))
    unlabelled = [n for n, kind in NAMES.items() if kind == "counter" and found.get(n) is not None]
    assert "sidecart_bugs_total" in unlabelled
    assert all(found[name] == 0 for name in unlabelled)


def test_process_metrics_are_there() -> None:
    text = scrape(Stats(), Gauges())
    assert "\nprocess_resident_memory_bytes " in text
    assert "\npython_info{" in text


def test_registries_are_apart() -> None:
    one, two = Stats(), Stats()
    one.bugs = 7
    first, second = (metrics.registry(stats, Gauges) for stats in (one, two))
    assert first.get_sample_value("sidecart_bugs_total") == 7
    assert second.get_sample_value("sidecart_bugs_total") == 0


def test_scrape_reads_what_is_counted_since() -> None:
    stats = Stats()
    own = metrics.registry(stats, Gauges)
    stats.bugs += 1
    assert own.get_sample_value("sidecart_bugs_total") == 1
    stats.bugs += 1
    assert own.get_sample_value("sidecart_bugs_total") == 2


def test_making_the_registry_does_not_ask_for_gauges() -> None:
    def not_yet() -> Gauges:
        raise AssertionError("the server has not started")

    assert isinstance(metrics.registry(Stats(), not_yet), CollectorRegistry)


def test_attack_label_that_breaks_the_text_format() -> None:
    gauges = Gauges(servers={('a"} 1\nsidecart_bugs_total 99\n\\', "idle"): 1, ("\ud800", "idle"): 2})
    found = values(scrape(Stats(), gauges))
    assert found["sidecart_bugs_total"] == 0
    assert found["sidecart_servers{database=?,state=idle}"] == 2


def test_promtool_finds_nothing() -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed")
    done = subprocess.run(
        [promtool, "check", "metrics"], input=scrape(*filled()), text=True, capture_output=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


class Moving(defaultdict[str, int]):
    """A dict that another thread changes in the middle of the first copies."""

    def __init__(self, times: int) -> None:
        super().__init__(int)
        self["x"] = 5
        self.times = times

    def __iter__(self) -> Iterator[str]:
        if self.times:
            self.times -= 1
            raise RuntimeError("dictionary changed size during iteration")
        return super().__iter__()

    def keys(self):  # type: ignore[no-untyped-def]
        return list(iter(self))


def test_copy_of_a_changing_dict_is_tried_again() -> None:
    stats = Stats()
    stats.refused = moving = Moving(metrics.ATTEMPTS - 1)
    assert metrics.registry(stats, Gauges).get_sample_value("sidecart_refused_total", {"rule": "x"}) == 5
    assert moving.times == 0


def test_copy_is_not_tried_for_ever() -> None:
    stats = Stats()
    stats.refused = Moving(1000)
    with pytest.raises(RuntimeError, match="changed size"):
        list(metrics.registry(stats, Gauges).collect())


def test_gauges_that_meet_a_changing_set_are_tried_again() -> None:
    calls = []

    def gauges() -> Gauges:
        calls.append(1)
        if len(calls) == 1:
            raise RuntimeError("Set changed size during iteration")
        return Gauges(waiting=3)

    assert metrics.registry(Stats(), gauges).get_sample_value("sidecart_waiting_clients") == 3
    assert len(calls) == 2


def test_scrapes_while_another_thread_counts() -> None:
    stats = Stats()
    own = metrics.registry(stats, Gauges)
    stop = threading.Event()

    def count() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            stats.statements["allow", f"kind{number % 300}"] += 1
            stats.refused[f"rule{number % 300}"] += 1
            stats.queue_wait.observe(0.01)
            if number % 300 == 0:
                stats.statements.clear()
                stats.refused.clear()

    thread = threading.Thread(target=count)
    thread.start()
    try:
        for _ in range(20):
            found = values(generate_latest(own).decode())
            assert found["sidecart_queue_wait_seconds_count"] == found["sidecart_queue_wait_seconds_bucket{le=+Inf}"]
    finally:
        stop.set()
        thread.join()
