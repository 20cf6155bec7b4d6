"""Every operation of the API. To add one: write it into a module beside this, or a new one."""

from __future__ import annotations

from webhook_server.description import (
    board,
    changes,
    customers,
    expected,
    links,
    machines,
    operators,
    payments,
    unsettled,
    webhooks,
)
from webhook_server.description.operations import Operation

__all__ = ["OPERATIONS", "TAGS"]

# In the order in which a reader wants them.
TAGS = {
    "statuses": "Has my payment gone through?",
    "payments": "What is known of a payment.",
    "customers": "Who paid, and what they may ask for.",
    "changes": "Hear of changes, and catch up on those that were missed.",
    "links": "A page for a customer, without a token of the API.",
    "operators": "For an operator's token.",
    "board": "How everything stands, on one page.",
    "webhooks": "What Flutterwave sends.",
    "machines": "Health, metrics, and this description. Open to all.",
}

OPERATIONS: tuple[Operation, ...] = (
    *payments.OPERATIONS,
    *expected.OPERATIONS,
    *customers.OPERATIONS,
    *changes.OPERATIONS,
    *links.OPERATIONS,
    *operators.OPERATIONS,
    *unsettled.OPERATIONS,
    *board.OPERATIONS,
    *webhooks.OPERATIONS,
    *machines.OPERATIONS,
)
