"""``metrics.md``: every metric that is registered."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry
from prometheus_client.metrics import MetricWrapperBase

from docs.generate.tables import code, table
from paystate.audit.ledger import Ledger
from paystate.metrics import Metrics

__all__ = ["page", "registered"]

# Who registers metrics beside `Metrics`, and what registers them. A test finds who is missing.
REGISTRARS: dict[str, Callable[[CollectorRegistry], object]] = {
    "the worker's audit": Ledger,
}


def registered(registry: CollectorRegistry) -> Iterator[MetricWrapperBase]:
    """Yield what is registered, in the order in which it was."""
    collectors = registry._collector_to_names  # noqa: SLF001 - it tells names, but not labels
    yield from (one for one in collectors if isinstance(one, MetricWrapperBase))


def page() -> str:
    """Return the page."""
    text = (
        "# Metrics\n\n"
        "`GET /metrics` of each process, in Prometheus' text format. Labels have few values: no "
        "id, no reference and nothing of a customer. With several web processes on one port "
        "(`WEB_PROCESSES`) any of them answers for all. docs/runbook.md says what each alert "
        "means.\n"
    )
    registries = {"both processes": Metrics().registry}
    for owner, register in REGISTRARS.items():
        registries[owner] = CollectorRegistry()
        register(registries[owner])
    for owner, registry in registries.items():
        rows = [_row(one) for one in registered(registry)]
        text += f"\n## Of {owner}\n\n" + table(("name", "type", "labels", "meaning"), rows)
    return text


def _row(metric: MetricWrapperBase) -> tuple[str, str, str, str]:
    kind = metric._type  # noqa: SLF001 - as above
    name = metric._name + ("_total" if kind == "counter" else "")  # noqa: SLF001
    meaning = metric._documentation  # noqa: SLF001
    if kind == "histogram":
        bounds = ", ".join(f"{bound:g}" for bound in metric._upper_bounds[:-1])  # noqa: SLF001
        meaning += f" Buckets up to: {bounds}."
    labels = ", ".join(map(code, metric._labelnames))  # noqa: SLF001
    return code(name), kind, labels, meaning
