"""How many examples a property is tried with."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

__all__ = ["examples"]


def examples(number: int) -> settings:
    """Return settings for `number` examples, or for those of the profile ``long`` under it.

    A world is opened once for all examples of a test: what one of them leaves behind is a thing
    that the next has to cope with.
    """
    long = settings.get_current_profile_name() == "long"
    return settings(
        max_examples=settings.default.max_examples if long else number,
        deadline=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    )
