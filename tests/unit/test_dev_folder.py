"""The folder of `paystate dev`, what it plans to run from there, and what it prints."""

from __future__ import annotations

import os
import re
import signal
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from paystate.cli import embedded
from paystate.cli.banner import banner
from paystate.cli.commands import cli
from paystate.cli.devdata import (
    DataDir,
    DataDirTaken,
    DevFileInvalid,
    Running,
    can_bind,
    free_port,
    lock_data_dir,
    read_data_dir,
)
from paystate.cli.devplan import Options, make_plan
from paystate.links import Links
from paystate.settings import Role, load

OPTIONS = Options(host="127.0.0.1", port=8080, rate_per_s=1.0)
ROOT = Path("/checkout")


@pytest.fixture
def data(tmp_path: Path) -> DataDir:
    return DataDir(tmp_path)


def test_secrets_are_made_once_and_kept_from_others(tmp_path: Path) -> None:
    with lock_data_dir(tmp_path / "new") as data:
        first = data.secret("FLW_SECRET_HASH")
        assert first == data.secret("FLW_SECRET_HASH") != data.secret("API_TOKENS")
        data.save()
    assert stat.S_IMODE((tmp_path / "new" / "dev.json").stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o700
    with lock_data_dir(tmp_path / "new") as data:
        assert data.secret("FLW_SECRET_HASH") == first
    assert first not in repr(data)


def test_a_second_owner_is_refused_and_told_of_the_first(tmp_path: Path) -> None:
    with lock_data_dir(tmp_path) as data:
        data.running = Running(4711, "http://127.0.0.1:8080", "")
        data.save()
        with pytest.raises(DataDirTaken, match="4711"), lock_data_dir(tmp_path):
            raise AssertionError
    with lock_data_dir(tmp_path) as data:
        assert data.running is None


def test_what_runs_is_forgotten_when_the_lock_is_released(tmp_path: Path) -> None:
    with lock_data_dir(tmp_path) as data:
        data.running = Running(1, "http://127.0.0.1:1", "", None, ("API_TOKENS",))
        data.save()
        assert read_data_dir(tmp_path).running == data.running
    assert read_data_dir(tmp_path).running is None


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"secrets": 1, "ports": {}}', "\\xff"])
def test_a_damaged_file_says_what_to_do(tmp_path: Path, text: str) -> None:
    (tmp_path / "dev.json").write_text(text, "utf-8")
    with pytest.raises(DevFileInvalid, match="delete it"):
        read_data_dir(tmp_path)


def test_a_folder_that_was_never_used_is_empty(tmp_path: Path) -> None:
    assert read_data_dir(tmp_path / "nothing").secrets == {}


def test_a_port_stays_the_same_while_it_is_free(data: DataDir) -> None:
    port = data.port("valkey", "127.0.0.1")
    assert data.port("valkey", "127.0.0.1") == port
    with socket.create_server(("127.0.0.1", port)):
        assert not can_bind("127.0.0.1", port)
        assert data.port("valkey", "127.0.0.1") != port


def test_everything_is_made_up_where_nothing_is_set(data: DataDir) -> None:
    plan = make_plan(data, {}, OPTIONS, ROOT)
    settings = load(plan.environ, role=Role.WEB)
    assert settings.database_url == f"sqlite:///{data.path}/paystate.db"
    assert settings.cache_url == f"redis://127.0.0.1:{data.ports['valkey']}/0"
    assert settings.base_url == f"{plan.running.sandbox}/v3"
    assert settings.secret_hashes == (data.secrets["FLW_SECRET_HASH"],)
    assert settings.client_id
    assert settings.link_keys
    assert plan.environ["PYTHONPATH"] == "/checkout"
    assert plan.valkey is not None
    assert plan.valkey.foundation
    assert plan.sandbox is not None
    assert plan.sandbox.environ["SANDBOX_RECEIVER"] == plan.running.webhook
    assert plan.sandbox.environ["SANDBOX_RATE"] == "1.0"


def test_what_the_environment_gives_is_used(data: DataDir) -> None:
    given = {
        "DATABASE_URL": "postgresql://db/x",
        "CACHE_URL": "redis://cache:6379/0",
        "FLW_SECRET_HASH": "mine",
        "API_TOKENS": "also-mine",
        "PYTHONPATH": "/elsewhere",
        "LOG_LEVEL": "",
    }
    plan = make_plan(data, given, OPTIONS, ROOT)
    settings = load(plan.environ, role=Role.WEB)
    assert settings.database_url == given["DATABASE_URL"]
    assert settings.cache_url == given["CACHE_URL"]
    assert settings.secret_hashes == ("mine",)
    assert plan.valkey is None
    assert plan.environ["PYTHONPATH"] == "/checkout:/elsewhere"
    assert plan.running.from_env == ("API_TOKENS", "FLW_SECRET_HASH")
    text = banner(plan, data, None)
    assert "mine" not in text
    assert "$API_TOKENS" in text


def test_the_audit_asks_the_web_process_with_a_token_that_may_read_all(data: DataDir) -> None:
    """With one that is made up, or with one of the environment; without any it asks itself."""
    made = make_plan(data, {}, OPTIONS, ROOT)
    settings = load(made.worker.environ)
    assert (settings.audit_url, settings.audit_token) == (made.running.web, *settings.api_tokens)
    given = make_plan(data, {"API_TOKENS": "page:shop:read=a,b"}, OPTIONS, ROOT)
    assert load(given.worker.environ).audit_token == "b"
    narrow = load(make_plan(data, {"API_TOKENS": "page:shop:read=a"}, OPTIONS, ROOT).worker.environ)
    assert (narrow.audit_url, narrow.audit_token) == ("", None)


def test_another_provider_means_no_sandbox_and_no_made_up_keys_for_it(data: DataDir) -> None:
    plan = make_plan(data, {"FLW_BASE_URL": "https://flw.example/v3"}, OPTIONS, ROOT)
    settings = load(plan.environ)
    assert plan.sandbox is None
    assert plan.running.sandbox is None
    assert (settings.secret_key, settings.client_id) == (None, None)


def test_half_a_pair_of_credentials_is_left_for_the_settings_to_refuse(data: DataDir) -> None:
    plan = make_plan(data, {"FLW_CLIENT_ID": "mine"}, OPTIONS, ROOT)
    assert "FLW_CLIENT_SECRET" not in plan.environ


@pytest.mark.parametrize(
    ("host", "url"),
    [("0.0.0.0", "http://127.0.0.1:8080"), ("::", "http://[::1]:8080")],
)
def test_the_address_shown_can_be_reached(data: DataDir, host: str, url: str) -> None:
    given = {"WORKER_PORT": "1"}
    plan = make_plan(data, given, Options(host, 8080, 0.0), ROOT)
    assert plan.running.web == url
    assert not plan.has_traffic


def test_the_banners_payment_is_another_at_each_start(data: DataDir) -> None:
    """What was settled the last time cannot become the payment of this time's page."""
    plan = make_plan(data, {}, OPTIONS, ROOT)
    ids = set()
    for _ in range(2):
        text = banner(plan, data, None)
        (sent,) = re.findall(r" send .* --id ([0-9]+)", text)
        assert re.findall(r" lookup ([0-9]+)", text) == [sent]
        assert f"/api/payments/{sent}/status" in text
        ids.add(sent)
    assert len(ids) == 2


def test_the_banner_has_all_that_is_needed_to_begin(data: DataDir) -> None:
    plan = make_plan(data, {}, OPTIONS, ROOT)
    text = banner(plan, data, "123456")
    for needed in (
        plan.running.web,
        plan.running.webhook,
        str(plan.running.sandbox),
        data.secrets["FLW_SECRET_HASH"],
        data.secrets["API_TOKENS"],
        f"lookup 123456 --data-dir {data.path}",
        "curl",
        "send --api v3",
        f"{plan.running.web}/#token={data.secrets['API_TOKENS']}",
        f"{plan.running.web}/pay/",
    ):
        assert needed in text
    assert data.secrets["FLW_SECRET_KEY"] not in text
    [token] = re.findall(r"/pay/(\S+)", text)
    [order] = re.findall(r"--tx-ref (\S+)", text)
    assert Links([data.secrets["LINK_KEY"]]).read(token).entity.id == order


def start_valkey(port: int, folder: Path) -> subprocess.Popen[str]:
    """Start a server and return when it says that it can be used."""
    folder.mkdir()
    command = [*embedded.argv(port, folder), "--logfile", ""]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    assert any("Ready to accept connections" in line for line in server.stdout)
    return server


def test_a_valkey_left_over_from_a_killed_run_is_ended(tmp_path: Path) -> None:
    port = free_port("127.0.0.1")
    with start_valkey(port, tmp_path / "valkey") as server:
        assert embedded.is_ready(port)
        embedded.end_leftover(port, tmp_path / "valkey")
        assert server.wait(10) == 0
    assert can_bind("127.0.0.1", port)
    assert not embedded.is_ready(port)


def test_somebody_elses_valkey_is_left_alone(tmp_path: Path) -> None:
    port = free_port("127.0.0.1")
    with start_valkey(port, tmp_path / "theirs") as server:
        embedded.end_leftover(port, tmp_path / "ours")
        assert embedded.is_ready(port)
        server.send_signal(signal.SIGTERM)


def test_dev_refuses_a_port_that_was_asked_for_and_is_taken(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        result = CliRunner().invoke(cli, ["dev", "--data-dir", str(tmp_path), "--port", port])
    assert result.exit_code == 2
    assert f"Port {port} is taken" in result.stderr


def test_dev_lists_every_problem_of_the_settings(tmp_path: Path) -> None:
    result = CliRunner().invoke(
        cli,
        ["dev", "--data-dir", str(tmp_path), "--port", "0"],
        env={"FLW_CLIENT_ID": "half", "CONFIRM": "maybe"},
    )
    assert result.exit_code == 2
    assert "FLW_CLIENT_SECRET" in result.stderr
    assert "CONFIRM" in result.stderr


def test_dev_says_where_the_processes_are_run_from_if_they_are_missing(tmp_path: Path) -> None:
    code = """
import paystate
paystate.__file__ = "/nowhere/site/paystate/__init__.py"
import sys
sys.argv = ["paystate", "dev"]
from paystate.cli import main
main()
"""
    ran = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=dict(os.environ), capture_output=True,
        text=True, check=False, timeout=60,
    )  # fmt: skip
    assert ran.returncode == 2
    assert "run from the checkout" in ran.stderr
    assert not (tmp_path / ".paystate").exists()
