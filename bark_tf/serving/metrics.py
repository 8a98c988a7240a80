"""What a server counts, for Prometheus."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
)

_SECONDS = (0.1, 0.25, 0.5, 1, 2, 4, 8, 15, 30, 60, 120, 300)
_ROWS = (1, 2, 4, 8, 16, 32, 64)


class Metrics:
    """The metrics of one server, in a registry of their own."""

    def __init__(self):
        self.registry = registry = CollectorRegistry()
        self.requests = Counter(
            "bark_tf_requests",
            "Requests by route and status.",
            ["route", "status"],
            registry=registry,
        )
        self.request_seconds = Histogram(
            "bark_tf_request_seconds",
            "Time of a request for speech, to its last byte.",
            buckets=_SECONDS,
            registry=registry,
        )
        self.first_byte_seconds = Histogram(
            "bark_tf_first_byte_seconds",
            "Time of a request for speech, to its first byte of audio.",
            buckets=_SECONDS,
            registry=registry,
        )
        self.audio_seconds = Counter(
            "bark_tf_audio_seconds",
            "Seconds of audio that were sent; its rate is audio seconds per second.",
            registry=registry,
        )
        self._batch_rows = Histogram(
            "bark_tf_batch_rows",
            "Rows that were spoken together.",
            buckets=_ROWS,
            registry=registry,
        )
        self._busy_seconds = Counter(
            "bark_tf_busy_seconds", "Seconds spent on batches.", registry=registry
        )
        self._stage_seconds = Counter(
            "bark_tf_stage_seconds",
            "Seconds spent on batches, by stage.",
            ["stage"],
            registry=registry,
        )
        self._waiting = Gauge(
            "bark_tf_queue_rows", "Sentences that wait.", registry=registry
        )
        self._open = Gauge(
            "bark_tf_open_requests",
            "Requests for speech that have a place.",
            registry=registry,
        )

    def watch(self, waiting: Callable[[], int], is_open: Callable[[], int]) -> None:
        """Reads the gauges from functions, whenever they are asked for."""
        self._waiting.set_function(waiting)
        self._open.set_function(is_open)

    def add_batch(self, rows: int, seconds: float) -> None:
        """Counts a batch."""
        self._batch_rows.observe(rows)
        self._busy_seconds.inc(seconds)

    def add_stages(self, seconds: Mapping[str, float]) -> None:
        """Counts the seconds of the stages of a batch."""
        for stage, value in seconds.items():
            self._stage_seconds.labels(stage).inc(value)

    def text(self) -> bytes:
        """All metrics in Prometheus' text format."""
        return generate_latest(self.registry)
