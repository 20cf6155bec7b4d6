"""The manifests: valid, hardened, stopped softly, and about things that are there."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache
from typing import Any

import kubernetes_validate  # type: ignore[import-untyped]

from deploy.check import product
from deploy.check.tree import Tree
from paystate.keys import Keys
from paystate.settings import Role

__all__ = ["problems", "schema_problems"]

FOLDER = "deploy/kubernetes"
BASE = f"{FOLDER}/base"
SETTINGS = f"{BASE}/settings.env"
KEDA = f"{FOLDER}/overlays/keda/worker-scaling.yaml"
KUSTOMIZATIONS = (BASE, f"{FOLDER}/migrate", f"{FOLDER}/overlays/keda")
DOCS = "docs/deploy.md"
SCHEMAS = "1.34"
# Of the secret, what is no setting: KEDA wants host:port where QUEUE_URL is a URL.
_SECRET_ONLY = frozenset({"QUEUE_ADDRESS"})

Manifest = dict[str, Any]


def problems(tree: Tree) -> list[str]:
    """Return what is wrong with the manifests."""
    listed = list(_manifests(tree))
    manifests = {f"{m['kind']}/{m['metadata']['name']}": m for _, m in listed}
    found = [p for folder in KUSTOMIZATIONS for p in _kustomization(tree, folder)]
    for path, manifest in listed:
        where = f"{path}: {manifest['kind']} {manifest['metadata']['name']}"
        found += [f"{where}: {p}" for p in schema_problems(manifest)]
        if manifest["kind"] in {"Deployment", "Job"}:
            found += [f"{where}: {p}" for p in _pod(tree, manifest)]
        if manifest["kind"] == "Deployment":
            found += [f"{where}: {p}" for p in _deployment(tree, manifest)]
        found += [f"{where}: {p}" for p in _targets(manifest, manifests)]
    found += _scaled(tree)
    return found


def _files(tree: Tree, folder: str) -> tuple[str, ...]:
    (kustomization,) = tree.documents(f"{folder}/kustomization.yaml")
    return tuple(name for name in kustomization["resources"] if name.endswith(".yaml"))


def _manifests(tree: Tree) -> Iterator[tuple[str, Manifest]]:
    for folder in KUSTOMIZATIONS:
        for name in _files(tree, folder):
            path = f"{folder}/{name}"
            if tree.has(path):
                for manifest in tree.documents(path):
                    yield path, manifest


def _kustomization(tree: Tree, folder: str) -> list[str]:
    where = f"{folder}/kustomization.yaml"
    (kustomization,) = tree.documents(where)
    named = [*kustomization["resources"]]
    named += [e for g in kustomization.get("configMapGenerator", []) for e in g["envs"]]
    found = [f"{where}: no {name}" for name in named if not tree.has(f"{folder}/{name}")]
    present = {p.name for p in (tree.root / folder).iterdir()} - {"kustomization.yaml"}
    found += [f"{where}: leaves out {name}" for name in sorted(present - set(named))]
    for image in kustomization.get("images", []):
        if (image["name"], image["newTag"]) != ("paystate", tree.version):
            found.append(f"{where}: image is not paystate {tree.version}")
    return found


def schema_problems(manifest: Manifest) -> list[str]:
    """Return how a manifest differs from Kubernetes' own schema; KEDA's have none here."""
    if manifest["apiVersion"].startswith("keda.sh/"):
        return []
    return _compared(json.dumps(manifest, sort_keys=True))


@cache
def _compared(manifest: str) -> list[str]:
    try:
        kubernetes_validate.validate(json.loads(manifest), SCHEMAS, strict=True)
    except kubernetes_validate.ValidationError as e:
        return [f"{'.'.join(map(str, e.path))}: {e.message}"]
    return []


def _pod(tree: Tree, manifest: Manifest) -> list[str]:
    pod = manifest["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    found = []
    context, mine = pod["securityContext"], container["securityContext"]
    hardened = {
        "runAsNonRoot": context.get("runAsNonRoot") is True,
        "seccompProfile": context.get("seccompProfile") == {"type": "RuntimeDefault"},
        "readOnlyRootFilesystem": mine.get("readOnlyRootFilesystem") is True,
        "allowPrivilegeEscalation": mine.get("allowPrivilegeEscalation") is False,
        "capabilities": mine.get("capabilities") == {"drop": ["ALL"]},
        "automountServiceAccountToken": pod.get("automountServiceAccountToken") is False,
        "enableServiceLinks": pod.get("enableServiceLinks") is False,
        "resources": {"requests", "limits"} <= container.get("resources", {}).keys(),
    }
    found += [f"{name} is not as it should be" for name, good in hardened.items() if not good]
    if f"USER {context.get('runAsUser')}:{context.get('runAsGroup')}" not in tree.text(
        "deploy/Dockerfile"
    ):
        found.append("runs as another user than the image")
    if container["image"] != "paystate":
        found.append(f"image {container['image']} is not the one that kustomize names")
    process = {"migrate": "release"}.get(container["name"], container["name"])
    if container["args"] != tree.processes.get(process):
        found.append("its command is not that of the Procfile")
    return found + _environment(tree, container)


def _environment(tree: Tree, container: dict[str, Any]) -> list[str]:
    found, environ = [], {}
    for variable in container["env"]:
        name = variable["name"]
        reference = variable.get("valueFrom", {}).get("secretKeyRef")
        if reference is None:
            environ[name] = variable["value"]
        elif (reference["name"], reference["key"]) != ("paystate", name):
            found.append(f"{name} is not read from its key of the secret paystate")
        elif not reference.get("optional"):
            environ[name] = {
                "DATABASE_URL": "postgresql://h/d",
                "CACHE_URL": "redis://h",
                "QUEUE_URL": "redis://h",
            }.get(name, "secret")
    if container.get("envFrom"):
        environ |= tree.variables(SETTINGS)
    role = product.MODULES.get(container["name"], ("", Role.TOOL))[1]
    unknown = {v["name"] for v in container["env"]} - product.settings().keys()
    return [
        *found,
        *(f"{name} is no setting" for name in sorted(unknown)),
        *product.setting_problems("env", environ, role),
    ]


def _deployment(tree: Tree, manifest: Manifest) -> list[str]:
    pod = manifest["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    name, found = container["name"], []
    rolling = manifest["spec"]["strategy"].get("rollingUpdate", {})
    if rolling.get("maxUnavailable") != 0:
        found.append("a rollout must not take away what serves: maxUnavailable 0")
    stop = container.get("lifecycle", {}).get("preStop", {}).get("exec", {}).get("command", [])
    pause_s = int(stop[1]) if stop[:1] == ["sleep"] else 0
    if name == "web" and not pause_s:
        found.append("preStop must wait until the service has let go of the pod")
    needed_s = pause_s + product.stop_s(name, int(tree.variables(SETTINGS)["STOP_GRACE_S"]))
    if pod["terminationGracePeriodSeconds"] <= needed_s:
        found.append(f"terminationGracePeriodSeconds must be above {needed_s:g}")
    return found + _ports(tree, manifest, container)


def _ports(tree: Tree, manifest: Manifest, container: dict[str, Any]) -> list[str]:
    name, found = container["name"], []
    port = tree.variables(SETTINGS)[{"web": "PORT", "worker": "WORKER_PORT"}[name]]
    if [str(p["containerPort"]) for p in container["ports"]] != [port]:
        found.append(f"its port is not {port}, as the settings say")
    annotations = manifest["spec"]["template"]["metadata"]["annotations"]
    if annotations["prometheus.io/port"] != port:
        found.append("Prometheus is sent to another port")
    paths = {annotations["prometheus.io/path"]: "/metrics"}
    asks = {"startup": "/healthz", "liveness": "/healthz", "readiness": "/readyz"}
    for probe, path in asks.items():
        asked = container.get(f"{probe}Probe", {}).get("httpGet", {})
        paths[asked.get("path")] = path
        if asked.get("port") not in {p["name"] for p in container["ports"]}:
            found.append(f"{probe}Probe asks a port that has no name")
        if asked.get("path") != path:
            found.append(f"{probe}Probe must ask {path}")
    found += [f"{path} is no route" for path in paths if path not in product.routes()]
    return found


def _labels(manifest: Manifest) -> dict[str, str]:
    labels: dict[str, str] = manifest["spec"]["template"]["metadata"]["labels"]
    return labels


def _targets(manifest: Manifest, manifests: dict[str, Manifest]) -> list[str]:
    """What a manifest scales, selects or lets through is there."""
    spec, kind = manifest.get("spec", {}), manifest["kind"]
    pods = [m for m in manifests.values() if m["kind"] in {"Deployment", "Job"}]
    if kind in {"HorizontalPodAutoscaler", "ScaledObject"}:
        target = f"Deployment/{spec['scaleTargetRef']['name']}"
        scaled = manifests.get(target)
        if scaled is None:
            return [f"scales {target}, which is not there"]
        if kind == "HorizontalPodAutoscaler" and "replicas" in scaled["spec"]:
            return [f"and {target} says how many there are, too"]
    selector = {
        "Service": spec.get("selector"),
        "PodDisruptionBudget": spec.get("selector", {}).get("matchLabels"),
        "NetworkPolicy": spec.get("podSelector", {}).get("matchLabels"),
    }.get(kind)
    if selector is None:
        return []
    chosen = [pod for pod in pods if selector.items() <= _labels(pod).items()]
    if not chosen:
        return ["selects no pod"]
    return _let_in(spec, chosen) if kind == "NetworkPolicy" else []


def _let_in(spec: dict[str, Any], chosen: list[Manifest]) -> list[str]:
    open_ports = {
        port["containerPort"]
        for pod in chosen
        for container in pod["spec"]["template"]["spec"]["containers"]
        for port in container.get("ports", [])
    }
    asked = {port["port"] for rule in spec.get("ingress", []) for port in rule["ports"]}
    return [f"lets in port {port}, which no pod has" for port in sorted(asked - open_ports)]


def _scaled(tree: Tree) -> list[str]:
    scaled, access = tree.documents(KEDA)
    (trigger,) = scaled["spec"]["triggers"]
    found = []
    if trigger["metadata"]["listName"] != Keys().queue:
        found.append(f"{KEDA}: the queue is called {Keys().queue}")
    if scaled["spec"]["minReplicaCount"] < 1:
        found.append(f"{KEDA}: without a worker nobody sweeps")
    if trigger["authenticationRef"]["name"] != access["metadata"]["name"]:
        found.append(f"{KEDA}: no such authentication")
    found += [
        f"{KEDA}: {reference['key']} is not of the secret"
        for reference in access["spec"]["secretTargetRef"]
        if reference["name"] != "paystate" or reference["key"] not in _SECRET_ONLY
    ]
    return found + [f"{DOCS}: no {key}" for key in _SECRET_ONLY if key not in tree.text(DOCS)]
