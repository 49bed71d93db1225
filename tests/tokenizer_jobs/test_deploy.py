"""The files for Kubernetes: laws that a wrong number in them would break, and KubeRay's own schema where it is at hand.

The schema is too large to keep here (1.4 MB). To check against it, give a checkout's folder of them:
    KUBERAY_CRDS=.../kuberay/helm-chart/kuberay-operator/crds pytest tests/tokenizer_jobs/test_deploy.py
"""

import importlib
import os
import re
import shlex
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.tokenizer_jobs.conftest import REPOSITORY
from tokenizer_jobs.cli.commands import COMMANDS
from tokenizer_jobs.cli.parsing import parse_arguments
from tokenizer_jobs.config import JobConfig
from tokenizer_jobs.storage import is_url
from tokenizer_jobs.submission import STOP_MARGIN_SECONDS

DOCUMENTS = {
    document["kind"]: document for document in yaml.safe_load_all((REPOSITORY / "deploy/rayjob.yaml").read_text())
}
SPEC = DOCUMENTS["RayJob"]["spec"]
CLUSTER = SPEC["rayClusterSpec"]
HEAD = CLUSTER["headGroupSpec"]
WORKERS = CLUSTER["workerGroupSpecs"]
PODS = [group["template"]["spec"] for group in (HEAD, *WORKERS)]
JOB = JobConfig.parse(yaml.safe_load(DOCUMENTS["ConfigMap"]["data"]["job.yaml"]), origin="deploy/rayjob.yaml")
STOP_SECONDS = int(yaml.safe_load(SPEC["runtimeEnvYAML"])["env_vars"]["RAY_JOB_STOP_WAIT_TIME_S"])


def container(pod: dict[str, Any]) -> dict[str, Any]:
    (only,) = pod["containers"]
    assert isinstance(only, dict)
    return only


def test_the_command_is_one_of_ours_on_the_job_file_that_is_mounted() -> None:
    python, flag, module, command, *words = shlex.split(SPEC["entrypoint"])
    assert (python, flag, module, command) == ("python", "-m", "tokenizer_jobs", "run")
    path = Path(parse_arguments(COMMANDS["run"], words).config)
    (mount,) = container(PODS[0])["volumeMounts"]
    (volume,) = PODS[0]["volumes"]
    assert (str(path.parent), volume["name"]) == (mount["mountPath"], mount["name"])
    assert volume["configMap"]["name"] == DOCUMENTS["ConfigMap"]["metadata"]["name"]
    assert path.name in DOCUMENTS["ConfigMap"]["data"]


def test_every_node_reaches_the_output() -> None:
    assert is_url(JOB.output)


def test_nothing_but_the_driver_runs_on_the_head_and_the_head_is_not_on_a_spot_node() -> None:
    assert HEAD["rayStartParams"]["num-cpus"] == "0"
    assert "nvidia.com/gpu" not in container(PODS[0])["resources"]["limits"]
    (term,) = PODS[0]["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
    (away,) = term["matchExpressions"]
    for pod in PODS[1:]:
        assert away["key"] in pod["nodeSelector"]
    assert away["operator"] == "DoesNotExist"


def test_a_job_that_is_stopped_has_time_to_drain() -> None:
    """The driver's grace, then Ray's kill of the driver, then Kubernetes' kill of the pod."""
    assert JOB.runtime.grace_seconds + STOP_MARGIN_SECONDS <= STOP_SECONDS
    assert PODS[0]["terminationGracePeriodSeconds"] > STOP_SECONDS
    assert "pkill -TERM" in container(PODS[0])["lifecycle"]["preStop"]["exec"]["command"][-1]


@pytest.mark.parametrize("pod", PODS[1:])
def test_a_node_that_is_preempted_has_time_to_finish_its_units(pod: dict[str, Any]) -> None:
    environment = {entry["name"]: entry["value"] for entry in container(pod)["env"]}
    drain_seconds = float(environment["RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S"])
    assert JOB.runtime.grace_seconds < drain_seconds < pod["terminationGracePeriodSeconds"]


def test_a_lost_head_is_followed_by_another_attempt() -> None:
    assert SPEC["backoffLimit"] >= 1
    assert SPEC["shutdownAfterJobFinishes"]


def test_workers_come_because_encoders_ask_for_gpus() -> None:
    """On a cluster that has no GPU yet, a job that takes what it finds would ask for none."""
    assert CLUSTER["enableInTreeAutoscaling"]
    assert (WORKERS[0]["minReplicas"], JOB.runtime.device) == (0, "cuda")
    assert JOB.runtime.encoders == WORKERS[0]["maxReplicas"]


def test_tokens_are_asked_for_and_no_secret_is_written_down() -> None:
    assert CLUSTER["authOptions"]["mode"] == "token"
    for pod in PODS:
        assert all("secretRef" in source for source in container(pod)["envFrom"])
        written = [entry["name"] for entry in container(pod).get("env", []) if "value" in entry]
        assert not [name for name in written if re.search("KEY|SECRET|TOKEN|PASSWORD", name)]
    assert "Secret" not in DOCUMENTS


def test_versions_are_those_of_the_package() -> None:
    assert CLUSTER["rayVersion"] == version("ray")
    for pod in PODS:
        assert re.fullmatch(
            rf".+/tokenizer-jobs:{re.escape(version('tokenizer-jobs'))}-(cpu|gpu)", container(pod)["image"]
        )


def test_the_image_is_built_from_files_that_exist() -> None:
    dockerfile = (REPOSITORY / "deploy/Dockerfile").read_text()
    copied = [line.split()[1:-1] for line in dockerfile.splitlines() if re.match(r"COPY (?!--from)", line)]
    assert copied
    assert [name for names in copied for name in names if not (REPOSITORY / name).exists()] == []
    pinned = [line for line in (REPOSITORY / "constraints.txt").read_text().splitlines() if line.startswith("torch==")]
    assert len(pinned) == 1, "the image installs the one line that pins torch"
    for variant in {container(pod)["image"].rpartition("-")[2] for pod in PODS}:
        assert f"{variant}) index=" in dockerfile


def test_kubernetes_would_take_it() -> None:
    folder = os.environ.get("KUBERAY_CRDS")
    if folder is None:
        pytest.skip(
            "KUBERAY_CRDS does not name a folder with KubeRay's ray.io_rayjobs.yaml, such as "
            "ray-operator/config/crd/bases of its repository"
        )
    definition = yaml.load(Path(folder, "ray.io_rayjobs.yaml").read_text(), Loader=yaml.CSafeLoader)
    (served,) = [entry for entry in definition["spec"]["versions"] if entry["name"] == "v1"]
    schema = _strict(served["schema"]["openAPIV3Schema"])
    validator = importlib.import_module("jsonschema").Draft7Validator(schema)
    errors = [
        f"{'/'.join(map(str, error.path))}: {error.message}" for error in validator.iter_errors(DOCUMENTS["RayJob"])
    ]
    assert errors == []
    broken = {**DOCUMENTS["RayJob"], "spec": {**SPEC, "backOffLimit": 1}}
    assert [error.message for error in validator.iter_errors(broken)], "an unknown key would go unnoticed"


def _strict(schema: Any) -> Any:
    """Kubernetes' dialect in JSON Schema's: unknown keys are errors, and a number may be a string where it says so."""
    if isinstance(schema, list):
        return [_strict(entry) for entry in schema]
    if not isinstance(schema, dict):
        return schema
    strict = {key: _strict(value) for key, value in schema.items()}
    if schema.get("x-kubernetes-int-or-string") is True:
        strict.pop("type", None)
        strict["anyOf"] = [{"type": "integer"}, {"type": "string"}]
    if isinstance(schema.get("properties"), dict) and not schema.get("x-kubernetes-preserve-unknown-fields"):
        strict.setdefault("additionalProperties", False)
    return strict
