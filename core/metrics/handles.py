"""Metrics of prometheus_client that do nothing until the process starts to measure.

The library reads whether it shares its values with other processes when a metric is created, and
is not needed where metrics are off. So the objects of the library are created by `create`.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, ClassVar, Literal

if TYPE_CHECKING:
    import prometheus_client

# How the values of the running workers become one.
type Merge = Literal["livesum", "livemax", "livemin"]


class Metric:
    """A metric by its name, help and labels.

    known: label sets that are exported as 0 from the start, so that rates see the first event.
    """

    all: ClassVar[list["Metric"]] = []

    def __init__(
        self,
        name: str,
        help: str,  # noqa: A002 (as in prometheus_client)
        labels: Sequence[str] = (),
        *,
        known: Sequence[tuple[str, ...]] = (),
    ) -> None:
        self.name = name
        self.help = help
        self.labels = tuple(labels)
        self._known = known
        self.all.append(self)

    def create(self) -> None:
        raise NotImplementedError


class Counter(Metric):
    _real: "prometheus_client.Counter | None" = None

    def create(self) -> None:
        import prometheus_client

        # The registry of a process is not exported (core.metrics.exposition).
        self._real = prometheus_client.Counter(self.name, self.help, self.labels, registry=None)
        for values in self._known:
            self._real.labels(*values)

    def inc(self, *values: str, amount: float = 1) -> None:
        """Add `amount` to the counter with these values of its labels."""
        if self._real is not None:
            (self._real.labels(*values) if values else self._real).inc(amount)


class Gauge(Metric):
    _real: "prometheus_client.Gauge | None" = None

    def __init__(
        self,
        name: str,
        help: str,  # noqa: A002 (as above)
        labels: Sequence[str] = (),
        *,
        merge: Merge,
        known: Sequence[tuple[str, ...]] = (),
    ) -> None:
        super().__init__(name, help, labels, known=known)
        self._merge: Merge = merge

    def create(self) -> None:
        import prometheus_client

        self._real = prometheus_client.Gauge(
            self.name, self.help, self.labels, registry=None, multiprocess_mode=self._merge
        )
        for values in self._known:
            self._real.labels(*values)

    def set(self, value: float, *values: str) -> None:
        """Set the gauge of this process with these values of its labels."""
        if self._real is not None:
            (self._real.labels(*values) if values else self._real).set(value)

    @contextmanager
    def track(self) -> Iterator[None]:
        """Count one more while the block runs."""
        if self._real is None:
            yield
            return
        self._real.inc()
        try:
            yield
        finally:
            self._real.dec()


class Histogram(Metric):
    _real: "prometheus_client.Histogram | None" = None

    def __init__(self, name: str, help: str, *, bounds: Sequence[float]) -> None:  # noqa: A002 (as above)
        super().__init__(name, help)
        self._bounds = bounds

    def create(self) -> None:
        import prometheus_client

        self._real = prometheus_client.Histogram(
            self.name, self.help, registry=None, buckets=self._bounds
        )

    def observe(self, seconds: float) -> None:
        if self._real is not None:
            self._real.observe(seconds)
