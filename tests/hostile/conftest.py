"""How hard to try: a few hundred requests in every run, as many as one likes in a long one.

A long run: ``python -m pytest tests/hostile --hypothesis-profile=long``.
"""

from __future__ import annotations

import pytest
from hypothesis import settings

settings.register_profile("long", max_examples=2000, deadline=None)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Search what all tests have left behind once they have run."""
    items.sort(key=lambda item: item.name.startswith("test_the_whole_run_"))
