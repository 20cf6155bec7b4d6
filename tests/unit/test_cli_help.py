"""What every command says of itself: examples that parse, exit codes, JSON for programs."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from paystate.cli.commands import cli
from paystate.cli.exits import Exit
from tests.parts import ROOT


def _leaves(group: click.Group, above: str = "") -> Iterator[tuple[str, click.Command]]:
    """Yield every command that does something, `cache reset` under both of its words."""
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        if isinstance(command, click.Group):
            yield from _leaves(command, f"{above}{name} ")
        else:
            yield f"{above}{name}", command


COMMANDS = dict(_leaves(cli))
NAMES = list(COMMANDS)
# What is watched by a person until Ctrl-C, and what a shell reads, is no data.
WITHOUT_DATA = {"dev", "completion"}


def _command(name: str) -> click.Command:
    return COMMANDS[name]


def _block(name: str, title: str) -> list[str]:
    """Return the lines of a block of a command's help."""
    lines = (_command(name).help or "").splitlines()
    starts = [i for i, line in enumerate(lines) if line.strip() == title]
    assert len(starts) == 1, f"`paystate {name} --help` has no `{title}`"
    rest = lines[starts[0] + 1 :]
    end = next((i for i, line in enumerate(rest) if not line.strip()), len(rest))
    return [line.strip() for line in rest[:end]]


def _arguments(example: str, name: str) -> list[str]:
    """Return the arguments of the one `paystate` in a line for the shell."""
    inner = re.search(r"\$\((.*?)\)", example)
    words = shlex.split(inner[1] if inner else example)
    while re.fullmatch(r"[A-Z_]+=.*", words[0]):
        words.pop(0)
    own = ["paystate", *name.split()]
    assert words[: len(own)] == own
    ends = [i for i, word in enumerate(words) if word in {"|", ">", ";", "&&"}]
    return words[len(own) : ends[0] if ends else None]


def _parse(name: str, arguments: list[str]) -> None:
    parent = click.Context(cli, info_name="paystate", **cli.context_settings)
    with _command(name).make_context(name, arguments, parent=parent):
        pass


@pytest.mark.parametrize("name", NAMES)
def test_every_command_has_examples_that_parse(name: str) -> None:
    """Arguments and options are there and take those values; nothing is run."""
    examples = _block(name, "Examples:")
    assert examples
    for example in examples:
        _parse(name, _arguments(example, name))


def test_an_example_with_an_option_that_is_not_there_would_be_seen() -> None:
    with pytest.raises(click.UsageError, match="No such option"):
        _parse("lookup", _arguments("paystate lookup 1 --x", "lookup"))


def _told(text: str) -> Iterator[str]:
    """Yield the commands that a page has its reader type, each from its `paystate` on."""
    blocks = re.findall(r"^```(?:sh|console|)\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    prose = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    spans = [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", prose)]
    for line in [*"\n".join(blocks).replace("\\\n", " ").splitlines(), *spans]:
        for found in re.findall(r"(?:^|[\s(/])(paystate [a-z-]+ ?[^#;|)\n]*)", line):
            if " import " not in found and "kubectl" not in line:
                yield re.split(r"\s{3,}", found)[0]


PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md", "deploy/README.md")),
    *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "docs/how-to").glob("*.md")),
]  # fmt: skip


def test_every_command_in_the_documents_parses() -> None:
    """Those of guides are run as well; of the others, none has an option that is not there."""
    wrong, seen = [], set()
    for page in PAGES:
        for line in _told(page.read_text("utf-8")):
            words = shlex.split(line.replace("INBOX_ID", "41"))
            name = next((n for n in NAMES if words[1 : 1 + len(n.split())] == n.split()), None)
            if name is None:
                wrong.append(f"{page.name}: {line}: no such command")
                continue
            seen.add(name)
            try:
                _parse(name, _arguments(shlex.join(words), name))
            except click.exceptions.Exit:
                pass  # it was asked for its help
            except click.UsageError as e:
                wrong.append(f"{page.name}: {line}: {e.format_message()}")
    assert wrong == []
    assert set(NAMES) - seen == set()


@pytest.mark.parametrize("name", NAMES)
def test_every_command_lists_its_exit_codes(name: str) -> None:
    """Each has the one meaning that the code has everywhere, told for that command."""
    found = [re.fullmatch(r"([0-9])  \S.*", line) for line in _block(name, "Exit codes:")]
    codes = [int(one[1]) for one in found if one]
    assert len(codes) == len(found)
    assert codes == sorted(set(codes))
    assert codes[0] == Exit.OK
    assert set(codes) <= set(Exit)


@pytest.mark.parametrize("name", sorted(set(NAMES) - WITHOUT_DATA))
def test_every_command_with_data_has_json(name: str) -> None:
    options = {option for one in _command(name).params for option in one.opts}
    assert "--json" in options


@pytest.fixture(scope="module")
def environ(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A database of their own; no cache listens."""
    folder = tmp_path_factory.mktemp("cli")
    return {"DATABASE_URL": f"sqlite:///{folder / 'paystate.db'}", "FLW_SECRET_HASH": "a-secret",
            "CACHE_URL": "redis://127.0.0.1:1/0", "CACHE_TIMEOUT_MS": "100"}  # fmt: skip


@pytest.mark.parametrize(
    "arguments",
    [
        ["migrate"], ["config"], ["dead-letters"], ["prune", "--dry-run"], ["prune"],
        ["replay", "--state", "dead"], ["replay", "--state", "dead", "--dry-run"],
    ],
    ids=" ".join,
)  # fmt: skip
def test_json_is_all_that_a_program_is_given(arguments: list[str], environ: dict[str, str]) -> None:
    """Standard output is one JSON document, whatever it says."""
    if arguments != ["migrate"]:
        CliRunner().invoke(cli, ["migrate"], env=environ)
    result = CliRunner().invoke(cli, [*arguments, "--json"], env=environ)
    assert result.exit_code in (Exit.OK, Exit.REFUSED), result.output
    assert isinstance(json.loads(result.stdout), dict)
    assert "\x1b" not in result.stdout


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_prints_what_the_shell_reads(shell: str) -> None:
    """The script names the variable that the command answers to."""
    result = CliRunner().invoke(cli, ["completion", shell])
    assert result.exit_code == 0
    assert f"_PAYSTATE_COMPLETE={shell}_complete" in result.stdout
    if shell == "bash" and (bash := shutil.which("bash")):
        checked = subprocess.run([bash, "-n"], input=result.stdout, text=True, check=False)
        assert checked.returncode == 0


def test_a_shell_is_told_commands_and_options(tmp_path: Path) -> None:
    """The process answers as the script asks it to."""

    def completed(words: str, index: int) -> set[str]:
        ran = subprocess.run(
            [sys.executable, "-m", "paystate"], cwd=ROOT, capture_output=True, text=True,
            check=True,
            env={"_PAYSTATE_COMPLETE": "bash_complete", "COMP_WORDS": words,
                 "COMP_CWORD": str(index), "HOME": str(tmp_path)},
        )  # fmt: skip
        return {line.partition(",")[2] for line in ran.stdout.splitlines()}

    assert {"dead-letters", "dev"} <= completed("paystate de", 1) | completed("paystate dea", 1)
    assert {"--kind", "--json"} <= completed("paystate lookup --", 2)


def test_a_person_who_waits_is_told_and_a_program_is_not(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The spinner is for a terminal's standard error alone."""
    from paystate.cli.progress import progress

    for terminal, hidden, seen in ((True, False, True), (True, True, False), (False, False, False)):
        monkeypatch.setattr(sys.stderr, "isatty", lambda value=terminal: value)
        monkeypatch.setenv("TERM", "xterm")
        with progress("Counting …", hidden=hidden) as tell:
            tell("7 rows")
        said = capsys.readouterr()
        assert said.out == ""
        assert ("Counting" in said.err) is seen
