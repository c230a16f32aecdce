"""Counts and times of the server for Prometheus, at /metrics."""

from __future__ import annotations

from typing import Literal

from rdvla.errors import optional
from rdvla.serving.queries import Answer

ErrorKind = Literal["input", "busy", "not_finite", "internal"]
Refusal = Literal["key", "full", "origin", "path"]

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1.0, 2.5, 5.0)
_COUNTS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 128, 256)


class Metrics:
    """The figures of one server, in a registry of their own.

    Raises:
        MissingExtraError: prometheus-client is not installed.
    """

    def __init__(self) -> None:
        with optional("serve"):
            from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

        registry = self._registry = CollectorRegistry()
        self._queries = Counter(
            "rdvla_queries",
            "Queries answered, by how their iterations ended.",
            ("policy", "ended_by"),
            registry=registry,
        )
        self._errors = Counter(
            "rdvla_errors", "Queries that were not answered, by kind.", ("policy", "kind"), registry=registry
        )
        self._refusals = Counter(
            "rdvla_refused_connections", "Refused at the handshake.", ("kind",), registry=registry
        )
        self._help = Counter(
            "rdvla_help_requests", "Answers that ask for a person's help.", ("policy",), registry=registry
        )
        self._seconds = Histogram(
            "rdvla_query_seconds",
            "Time of a query by part: waiting for its batch, inference, and all from arrival to answer.",
            ("policy", "part"),
            buckets=_SECONDS,
            registry=registry,
        )
        self._depth = Histogram(
            "rdvla_depth", "Iterations of a query.", ("policy",), buckets=_COUNTS, registry=registry
        )
        self._batch = Histogram(
            "rdvla_batch_size",
            "Queries computed with a query, itself included.",
            ("policy",),
            buckets=_COUNTS,
            registry=registry,
        )
        self._open = Gauge(
            "rdvla_open_queries", "Queries that wait or are computed.", ("policy",), registry=registry
        )
        self._connections = Gauge("rdvla_connections", "Connected clients.", ("policy",), registry=registry)

    def text(self) -> tuple[bytes, str]:
        """Return the page for Prometheus and its content type."""
        from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

        return generate_latest(self._registry), CONTENT_TYPE_LATEST

    def connected(self, policy: str, change: Literal[1, -1]) -> None:
        """A client came (1) or went (-1)."""
        self._connections.labels(policy).inc(change)

    def opened(self, policy: str, change: Literal[1, -1]) -> None:
        """A query began (1) or ended (-1)."""
        self._open.labels(policy).inc(change)

    def refused(self, kind: Refusal) -> None:
        """A connection was refused."""
        self._refusals.labels(kind).inc()

    def failed(self, policy: str, kind: ErrorKind) -> None:
        """A query was not answered."""
        self._errors.labels(policy, kind).inc()

    def answered(self, policy: str, answer: Answer, *, seconds: float, help_requested: bool) -> None:
        """A query was answered, `seconds` after its arrival."""
        self._queries.labels(policy, answer.ended_by).inc()
        self._help.labels(policy).inc(help_requested)
        self._depth.labels(policy).observe(int(answer.prediction.depth))
        self._batch.labels(policy).observe(answer.batch_size)
        times = {"waiting": answer.waiting_ms / 1000, "inference": answer.inference_ms / 1000}
        for part, value in {**times, "total": seconds}.items():
            self._seconds.labels(policy, part).observe(value)
