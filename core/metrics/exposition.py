"""What a scrape returns: the files of all workers, and what is read at this moment."""

import logging
from collections.abc import Iterator
from pathlib import Path

from prometheus_client import CollectorRegistry, multiprocess
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from core import metrics
from core.metrics import slots
from core.metrics.cells import CounterCells

logger = logging.getLogger(__name__)


class NotMeasuring(Exception):  # noqa: N818 (an expected outcome, not an error)
    """This process could not make its files."""


def expose(accept: str) -> tuple[bytes, str]:
    """Return the metrics of all workers and their media type.

    accept: the Accept header. Prometheus' text format unless it names OpenMetrics.
    Raise NotMeasuring.
    """
    folder = metrics.folder
    if folder is None:
        raise NotMeasuring
    # First: what it reads may set metrics of this process.
    readings = list(_readings())
    for slot in slots.free(folder):
        multiprocess.mark_process_dead(slot, str(folder))  # type: ignore[no-untyped-call]
    registry = CollectorRegistry()
    registry.register(multiprocess.MultiProcessCollector(None, str(folder)))  # type: ignore[no-untyped-call]
    registry.register(_Collected([*_requests(folder), *readings]))
    encode, media_type = choose_encoder(accept)
    return encode(registry), media_type


class _Collected(Collector):
    def __init__(self, families: list[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterator[Metric]:
        yield from self._families


def _requests(folder: Path) -> Iterator[Metric]:
    cells = metrics.LAYOUT.total(folder)
    for family in metrics.LAYOUT.families:
        if isinstance(family, CounterCells):
            counter = CounterMetricFamily(family.name, family.help, labels=list(family.labels))
            for labels in family.rows:
                counter.add_metric(list(labels), cells[family.at(*labels)])
            yield counter
        else:
            histogram = HistogramMetricFamily(family.name, family.help, labels=[family.label])
            for value in family.values:
                buckets, seconds = family.read(cells, value)
                histogram.add_metric([value], buckets, seconds)
            yield histogram


def _readings() -> Iterator[Metric]:
    """Read all sources. One that fails is counted and leaves out its own values only."""
    families: dict[str, Metric] = {}
    errors = GaugeMetricFamily(
        "comfyui_keys_scrape_errors",
        "1 for each source whose metrics are missing in this scrape, because it can't be read.",
        labels=["source"],
    )
    for name, read in metrics.sources.items():
        try:
            readings = list(read())
        except Exception as error:
            # Any exception: the other metrics are needed most while something fails.
            logger.warning("The metrics of %s can't be read: %s", name, type(error).__name__)
            errors.add_metric([name], 1)
            continue
        errors.add_metric([name], 0)
        for reading in readings:
            family = families.setdefault(reading.name, _family(reading))
            family.add_sample(reading.name, {**reading.labels}, reading.value)
    yield from families.values()
    yield errors


def _family(reading: metrics.Reading) -> Metric:
    return Metric(reading.name.removesuffix("_total"), reading.help, reading.kind)
