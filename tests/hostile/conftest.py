"""How hard to try: a few hundred requests in every run, as many as one likes in a long one.

A long run: ``python -m pytest tests/hostile --hypothesis-profile=long``.
"""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("long", max_examples=2000, deadline=None, derandomize=False)
