"""Health: the checks of `/readyz`, and the main facts of `/metrics`, to read."""

import time
from typing import Any, Final, NamedTuple

from prometheus_client.parser import text_string_to_metric_families

from jobledger.service.api.operation import Permission
from jobledger.service.api.request import Request
from jobledger.service.api.response import Response
from jobledger.service.web.calls import call, pass_on
from jobledger.service.web.site import page, render
from jobledger.service.web.texts import span
from jobledger.service.wire import paths
from jobledger.store.timestamps import NANOSECONDS_PER_SECOND, parse_rfc3339

_UNITS: Final = ("B", "KiB", "MiB", "GiB", "TiB")
_BUCKETS: Final = "60"
_HEIGHT: Final = 40

Samples = dict[str, list[tuple[dict[str, str], float]]]


class CheckResult(NamedTuple):
    """A check of `/readyz?verbose`; `counts`: while it fails, the service is not ready."""

    name: str
    is_ok: bool
    counts: bool
    reason: str


class Fact(NamedTuple):
    """A fact with its name; `is_bad` marks one to look at."""

    title: str
    text: str
    is_bad: bool = False


class Minute(NamedTuple):
    """An interval of the last hour: its place in the picture, and its events."""

    x: float
    width: float
    height: float
    events: int
    time_ns: int


@page("GET", paths.UI_HEALTH, "uiHealth", requires=Permission.OBSERVE, nav="Health")
async def show_health(request: Request[Any]) -> Response:
    """The checks, and facts of the log, the view, the seals and the process."""
    checks = await checks_of(request)
    samples = read_metrics((await pass_on(request, "metrics")).body.decode())
    version = await call(request, "version")
    minutes = await _last_hour(request)
    return render(
        request,
        "health.html",
        checks=checks,
        is_ready=all(each.is_ok or not each.counts for each in checks),
        groups=facts_of(samples, time.time()),
        version=version,
        minutes=minutes,
        events=sum(each.events for each in minutes),
    )


async def checks_of(request: Request[Any]) -> list[CheckResult]:
    """The checks of `/readyz?verbose`, whose lines are `[+]name ok` and `[-]name failed: reason`.

    `[!]` marks a check that fails without making the service unready.
    """
    text = (await pass_on(request, "readyz", {"verbose": "true"})).body.decode()
    found = []
    for line in text.splitlines():
        if line.startswith("["):
            name, _, rest = line[3:].partition(" ")
            reason = rest.removeprefix("failed: ") if rest != "ok" else ""
            found.append(CheckResult(name, not reason, line[1] != "!", reason))
    return found


def read_metrics(text: str) -> Samples:
    """The samples of each metric by its name, with their labels."""
    found: Samples = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found.setdefault(sample.name, []).append((sample.labels, sample.value))
    return found


def facts_of(samples: Samples, now: float) -> dict[str, list[Fact]]:
    """The facts that the page shows, by group."""

    def value(name: str) -> float:
        return sum(number for _, number in samples.get(name, ()))

    def number(name: str) -> str:
        return f"{value(name):,.0f}"

    def labeled(name: str, label: str) -> str:
        return next((labels[label] for labels, number in samples.get(name, ()) if number), "unknown")

    refused = sum(
        number
        for labels, number in samples.get("jobledger_http_requests_total", ())
        if labels["status"].startswith("5")
    )
    return {
        "Log": [
            Fact(
                "Answers",
                "yes" if value("jobledger_log_connected") else "no",
                not value("jobledger_log_connected"),
            ),
            Fact("Last sequence", number("jobledger_log_sequence")),
            Fact(
                "Missing events",
                number("jobledger_log_damaged_events"),
                value("jobledger_log_damaged_events") > 0,
            ),
            Fact("Clock went back", number("jobledger_log_clock_steps_total")),
            Fact("Restarts of nats-server", number("jobledger_nats_restarts_total")),
        ],
        "View": [
            Fact("Projector", labeled("jobledger_projector_state", "state")),
            Fact("Sequence", number("jobledger_view_sequence")),
            Fact("Behind", f"{number('jobledger_view_gap_events')} events"),
            Fact("Lag", _duration(value("jobledger_view_lag_seconds"))),
            Fact("Size", size_text(value("jobledger_view_size_bytes"))),
            Fact("Invalid events", number("jobledger_view_anomalies")),
            Fact(
                "Jobs in quarantine",
                number("jobledger_quarantined_jobs"),
                value("jobledger_quarantined_jobs") > 0,
            ),
            Fact("Copies of the past", size_text(value("jobledger_asof_bytes"))),
        ],
        "Seals": [
            Fact(
                "Alarm", "yes" if value("jobledger_seal_alarm") else "none", value("jobledger_seal_alarm") > 0
            ),
            Fact("Events covered", number("jobledger_seal_events")),
            Fact("Age of the last", _duration(value("jobledger_seal_age_seconds"))),
            Fact(
                "Failures",
                number("jobledger_seal_failures_total"),
                value("jobledger_seal_failures_total") > 0,
            ),
        ],
        "Service": [
            Fact("Free disk space", size_text(value("jobledger_disk_free_bytes"))),
            Fact("Memory", size_text(value("process_resident_memory_bytes"))),
            Fact("Running for", _duration(max(0.0, now - value("process_start_time_seconds")))),
            Fact("Workers", number("jobledger_workers_running")),
            Fact("Live feeds", number("jobledger_feeds_open")),
            Fact("Requests", number("jobledger_http_requests_total")),
            Fact("Answered 5xx", f"{refused:,.0f}", refused > 0),
            Fact("Writes", number("jobledger_writes_total")),
        ],
    }


def size_text(size: float) -> str:
    """A number of bytes in its largest unit."""
    for unit in _UNITS[:-1]:
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} {_UNITS[-1]}"


def _duration(seconds: float) -> str:
    return span(int(seconds * NANOSECONDS_PER_SECOND))


async def _last_hour(request: Request[Any]) -> list[Minute]:
    found = (await call(request, "histogram", {"from": "1h", "buckets": _BUCKETS}))["Items"]
    most = max((each["Events"] for each in found), default=0) or 1
    width = 1_000 / (len(found) or 1)
    return [
        Minute(
            round(place * width, 2),
            round(max(1.0, width - 1), 2),
            round(_HEIGHT * each["Events"] / most, 2),
            each["Events"],
            parse_rfc3339(each["Time"]) or 0,
        )
        for place, each in enumerate(found)
    ]
