"""The metrics of several processes as one."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from jobledger.service.workers.families import Totals, families_of


def made(requests: dict[str, int], feeds: int = 0, ready: int = 0) -> CollectorRegistry:
    """The registry of one process."""
    registry = CollectorRegistry()
    counter = Counter("jobledger_http_requests", "Requests.", ("status",), registry=registry)
    seconds = Histogram("jobledger_http_request_seconds", "Time.", buckets=(0.1, 1.0), registry=registry)
    for status, count in requests.items():
        counter.labels(status).inc(count)
        for _ in range(count):
            seconds.observe(0.5)
    Gauge("jobledger_feeds_open", "Feeds.", registry=registry).set(feeds)
    Gauge("jobledger_ready", "Ready.", registry=registry).set(ready)
    return registry


def text(totals: Totals, owner: CollectorRegistry) -> list[str]:
    """The lines of the service's metrics, without those of their creation."""
    lines = generate_latest(totals.added_to(owner)).decode().splitlines()
    return [line for line in lines if not line.startswith("#") and "_created" not in line]


def test_counts_are_added_and_other_gauges_are_the_owners() -> None:
    """Also those of labels that only one process has."""
    totals = Totals()
    totals.update(1, families_of(made({"200": 3, "404": 1}, feeds=2)))
    totals.update(2, families_of(made({"200": 4}, feeds=5)))
    assert text(totals, made({"200": 1}, ready=1)) == [
        'jobledger_http_requests_total{status="200"} 8.0',
        'jobledger_http_requests_total{status="404"} 1.0',
        'jobledger_http_request_seconds_bucket{le="0.1"} 0.0',
        'jobledger_http_request_seconds_bucket{le="1.0"} 9.0',
        'jobledger_http_request_seconds_bucket{le="+Inf"} 9.0',
        "jobledger_http_request_seconds_count 9.0",
        "jobledger_http_request_seconds_sum 4.5",
        "jobledger_feeds_open 7.0",
        "jobledger_ready 1.0",
    ]


def test_counts_of_a_dead_worker_remain_and_its_gauges_do_not() -> None:
    """A counter never goes back, also when its successor starts at zero."""
    totals, owner = Totals(), made({})
    totals.update(1, families_of(made({"200": 3}, feeds=2)))
    totals.retire(1)
    assert text(totals, owner)[0] == 'jobledger_http_requests_total{status="200"} 3.0'
    assert "jobledger_feeds_open 0.0" in text(totals, owner)
    totals.update(1, families_of(made({"200": 1})))
    totals.retire(1)
    assert text(totals, owner)[0] == 'jobledger_http_requests_total{status="200"} 4.0'
