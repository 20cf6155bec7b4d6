"""What machines ask, and this description itself."""

from __future__ import annotations

from typing import Any

from paystate.health import AliveJson, ReadyJson
from webhook_server.description.operations import Answer, Example, Operation

__all__ = ["OPERATIONS"]

OPERATIONS = (
    Operation(
        "GET", "/healthz", "Is it alive?", "machines", "open",
        (Answer(200, "It is.", AliveJson),),
        examples=(Example("Ask", answer={"alive": True}),),
    ),
    Operation(
        "GET", "/readyz", "Can it do its work?", "machines", "open",
        (Answer(200, "It can.", ReadyJson), Answer(503, "It cannot.", ReadyJson)),
        examples=(
            Example(
                "Ask",
                answer={"ready": True, "database": "ok", "cache": "ok", "queue": "ok"},
            ),
        ),
    ),
    Operation(
        "GET", "/metrics", "Metrics for Prometheus", "machines", "open",
        (Answer(200, "In the text format; docs/reference/metrics.md lists them.", str,
                media="text/plain"),),
        examples=(Example("Ask"),),
    ),
    Operation(
        "GET", "/openapi.json", "This description", "machines", "open",
        (Answer(200, "OpenAPI 3.1.", dict[str, Any]),),
        examples=(Example("Ask"),),
    ),
    Operation(
        "GET", "/docs", "This description, as a page", "machines", "open",
        (Answer(200, "A page that loads nothing from elsewhere.", str, media="text/html"),),
        examples=(Example("Read"),),
    ),
)  # fmt: skip
