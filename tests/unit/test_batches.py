"""Columns of a batch as joined texts: what cannot be told apart again is refused."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from paystate.store.batches import _joined


@pytest.mark.parametrize(
    "values", [["a", "b\x1fc"], ["a\x1e"], ["\x1e", None], ["\x1f"], [""]], ids=ascii
)
def test_a_text_that_would_shift_the_others_or_vanish_is_refused(
    values: Sequence[str | None],
) -> None:
    with pytest.raises(ValueError, match="cannot be stored"):
        _joined("text", values)


def test_texts_nothings_numbers_and_booleans_are_joined_in_order() -> None:
    assert _joined("text", ["a", None, "", "\n"]) == "a\x1f\x1e\x1f\x1f\n"
    assert _joined("bigint", [1, -2]) == "1\x1f-2"
    assert _joined("boolean", [True, False]) == "True\x1fFalse"
