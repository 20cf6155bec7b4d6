"""What `make` says to a newcomer on whose machine something is missing."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from bench.without import MECHANISMS
from tests.parts import ROOT

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")


def make(folder: Path, python: str) -> subprocess.CompletedProcess[str]:
    """Run `make run` in a folder that has nothing but the Makefile and what it installs from."""
    for name in ("Makefile", "requirements.lock", "pyproject.toml"):
        shutil.copy(ROOT / name, folder)
    (folder / "python").write_text(f"#!/bin/sh\n{python}\n")
    (folder / "python").chmod(0o755)
    return subprocess.run(
        ["make", "run", f"PYTHON={folder / 'python'}"], cwd=folder, capture_output=True, text=True,
        env={"PATH": os.environ["PATH"], "HOME": str(folder)}, check=False,
    )  # fmt: skip


def test_a_python_that_is_too_old_or_not_there_is_named_with_what_to_do(tmp_path: Path) -> None:
    for python in ("exit 1", "exit 127"):
        ran = make(tmp_path, python)
        assert ran.returncode == 2
        assert f"{tmp_path / 'python'} is none. Name one: make run PYTHON=python3.12" in ran.stdout
        assert not (tmp_path / ".venv").exists()


def test_what_could_not_be_installed_is_tried_again_the_next_time(tmp_path: Path) -> None:
    """Without a network, for one; nothing is taken for installed."""
    pip = 'mkdir -p .venv/bin; printf "#!/bin/sh\\nexit 1\\n" > .venv/bin/python'
    python = f'[ "$1" = -c ] && exit 0; {pip}; chmod +x .venv/bin/python'
    for _ in range(2):
        ran = make(tmp_path, python)
        assert ran.returncode == 2
        assert "It needs a network or a mirror (PIP_INDEX_URL). Then: make run" in ran.stdout
    assert not (tmp_path / ".venv" / ".installed").exists()


def test_make_proof_takes_out_every_mechanism() -> None:
    said = subprocess.run(
        ["make", "--dry-run", "prove-removals"], cwd=ROOT, capture_output=True, text=True,
        check=True,
    ).stdout  # fmt: skip
    listed = re.search(r"for mechanism in ([a-z_ ]+);", said)
    assert listed is not None
    on_postgresql = re.findall(r"--without ([a-z_]+)", said)
    assert {*listed[1].split(), *on_postgresql} == set(MECHANISMS)
