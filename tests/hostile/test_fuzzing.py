"""The readers of what comes from outside refuse, and do nothing worse, whatever they are given."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.hostile.profiles import examples
from tests.hostile.targets import TARGETS, seeds
from tests.parts import ROOT


@pytest.mark.parametrize("name", TARGETS)
def test_every_reader_copes_with_what_it_is_made_for(name: str) -> None:
    for seed in seeds(name):
        TARGETS[name](seed)


@pytest.mark.parametrize("name", [name for name in TARGETS if name != "everything"])
def test_every_reader_copes_with_sound_input_that_was_spoilt(name: str) -> None:
    sound = seeds(name)

    @examples(60)
    @given(st.sampled_from(sound), st.integers(0, 4000), st.binary(max_size=8), st.integers(0, 20))
    def spoil(seed: bytes, at: int, put: bytes, cut: int) -> None:
        at %= len(seed) + 1
        TARGETS[name](seed[:at] + put + seed[at + cut :])

    spoil()


def test_a_search_guided_by_coverage_finds_no_input_that_breaks_a_reader() -> None:
    pytest.importorskip("atheris", reason="atheris has no wheel for this Python")
    done = subprocess.run(
        [sys.executable, "-m", "tests.hostile", "--runs", "2000", "--target", "everything",
         "--seed", "1"],
        cwd=ROOT, capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONHASHSEED": "0"},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "held" in done.stdout
