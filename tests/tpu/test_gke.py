"""The manifests for GKE: filled in, and held against the fields that JobSet, Job and Pod have.

The field names are those of the published definitions (jobset.x-k8s.io/v1alpha2, batch/v1, core/v1) as far as they bear
on such a job. The definitions themselves (750 kB) are not here, so a field that is real but unusual would be refused.
"""

import os
import re
import subprocess
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
GKE = ROOT / "tpu" / "gke"
MANIFESTS = ("slice.yaml", "multislice.yaml")

STRINGS = {str: str}
METADATA = {"name": str, "namespace": str, "labels": STRINGS, "annotations": STRINGS}
FAILURE_POLICY = {
    "maxRestarts": int,
    "restartStrategy": {"Recreate", "BlockingRecreate"},
    "rules": [
        {
            "name": str,
            "action": {"FailJobSet", "RestartJobSet", "RestartJobSetAndIgnoreMaxRestarts"},
            "onJobFailureReasons": [{"BackoffLimitExceeded", "DeadlineExceeded", "PodFailurePolicy"}],
            "targetReplicatedJobs": [str],
        }
    ],
}
CONTAINER = {
    "name": str,
    "image": str,
    "command": [str],
    "args": [str],
    "env": [{"name": str, "value": str, "valueFrom": {"secretKeyRef": {"name": str, "key": str, "optional": bool}}}],
    "ports": [{"containerPort": int, "name": str}],
    "resources": {"requests": {str: int}, "limits": {str: int}},
    "volumeMounts": [{"name": str, "mountPath": str, "readOnly": bool}],
}
POD = {
    "terminationGracePeriodSeconds": int,
    "restartPolicy": {"Never", "OnFailure"},
    "serviceAccountName": str,
    "securityContext": {"runAsUser": int, "runAsGroup": int, "fsGroup": int},
    "nodeSelector": STRINGS,
    "tolerations": [STRINGS],
    "containers": [CONTAINER],
    "volumes": [{"name": str, "csi": {"driver": str, "readOnly": bool, "volumeAttributes": STRINGS}}],
}
EXIT_CODES = {"containerName": str, "operator": {"In", "NotIn"}, "values": [int]}
JOB = {
    "completionMode": {"Indexed", "NonIndexed"},
    "parallelism": int,
    "completions": int,
    "backoffLimit": int,
    "podFailurePolicy": {"rules": [{"action": {"FailJob", "Ignore", "Count", "FailIndex"}, "onExitCodes": EXIT_CODES}]},
    "template": {"metadata": METADATA, "spec": POD},
}
JOBSET = {
    "apiVersion": {"jobset.x-k8s.io/v1alpha2"},
    "kind": {"JobSet"},
    "metadata": METADATA,
    "spec": {
        "failurePolicy": FAILURE_POLICY,
        "replicatedJobs": [{"name": str, "replicas": int, "template": {"metadata": METADATA, "spec": JOB}}],
        "suspend": bool,
        "ttlSecondsAfterFinished": int,
    },
}


def complaints(value, schema, where="") -> list[str]:
    """What in a document is not as the schema has it: a dict of fields, a list of one kind, words, or a type."""
    if isinstance(schema, set):
        return [] if value in schema else [f"{where}: {value!r} is none of {sorted(schema)}"]
    if isinstance(schema, type):
        return [] if type(value) is schema else [f"{where}: {value!r} is no {schema.__name__}"]
    if type(value) is not type(schema):
        return [f"{where}: {value!r} is no {type(schema).__name__}"]
    if isinstance(schema, list):
        return [found for i, item in enumerate(value) for found in complaints(item, schema[0], f"{where}[{i}]")]
    if str in schema:
        return [found for key, item in value.items() for found in complaints(item, schema[str], f"{where}.{key}")]
    unknown = [f"{where}.{key}: there is no such field" for key in value.keys() - schema.keys()]
    known = [key for key in value if key in schema]
    return unknown + [found for key in known for found in complaints(value[key], schema[key], f"{where}.{key}")]


def settings() -> dict[str, str]:
    """The example's values, as bash reads them."""
    script = 'set -a; before=$(compgen -v); source "$1"; env -0'
    example = str(GKE / "settings.env.example")
    output = subprocess.run(
        ["bash", "-c", script, "-", example],
        env={"PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    return dict(line.split("=", 1) for line in output.split("\0") if "=" in line)


def filled(name: str) -> tuple[dict, set[str]]:
    """A manifest as `envsubst` leaves it, and the names that it filled in."""
    text = (GKE / name).read_text()
    values = settings()
    return yaml.safe_load(re.sub(r"\$\{(\w+)\}", lambda m: values[m[1]], text)), set(re.findall(r"\$\{(\w+)\}", text))


@pytest.mark.parametrize("name", MANIFESTS)
def test_fields_and_types(name):
    document, _ = filled(name)
    assert complaints(document, JOBSET) == []


def test_the_check_can_fail():
    document, _ = filled("slice.yaml")
    job = document["spec"]["replicatedJobs"][0]["template"]["spec"]
    job["template"]["restartPolicy"] = "Never"
    job["completions"] = "4"
    document["spec"]["failurePolicy"]["restartStrategy"] = "Again"
    assert sorted(line.rpartition(".")[2].partition(":")[0] for line in complaints(document, JOBSET)) == [
        "completions",
        "restartPolicy",
        "restartStrategy",
    ]


@pytest.mark.parametrize("name", MANIFESTS)
def test_what_a_slice_needs_of_its_job(name):
    document, names = filled(name)
    (replicated,) = document["spec"]["replicatedJobs"]
    job = replicated["template"]["spec"]
    assert replicated["replicas"] == (2 if name == "multislice.yaml" else 1)
    # JAX and libtpu find the others by the index of a pod, and no host can be started again alone.
    assert job["completionMode"] == "Indexed" and job["backoffLimit"] == 0
    assert job["parallelism"] == job["completions"]
    pod = job["template"]["spec"]
    (container,) = pod["containers"]
    x, y = map(int, pod["nodeSelector"]["cloud.google.com/gke-tpu-topology"].split("x"))
    assert job["parallelism"] * container["resources"]["limits"]["google.com/tpu"] == x * y
    assert container["resources"]["limits"] == container["resources"]["requests"]
    # An error of the user (2) ends the set, everything else, 75 too, starts it again.
    (rule,) = job["podFailurePolicy"]["rules"]
    assert rule["onExitCodes"]["values"] == [2] and rule["onExitCodes"]["containerName"] == container["name"]
    assert document["spec"]["failurePolicy"]["rules"][0]["onJobFailureReasons"] == ["PodFailurePolicy"]
    assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}
    assert any(word.startswith(f"run={container['volumeMounts'][0]['mountPath']}") for word in container["args"])
    assert names <= set(settings())


@pytest.mark.parametrize("name", MANIFESTS)
def test_the_image_s_user_may_write_to_the_bucket(name):
    """A mount is root's unless the pod has a group; the driver then gives that the right to write."""
    document, _ = filled(name)
    (replicated,) = document["spec"]["replicatedJobs"]
    context = replicated["template"]["spec"]["template"]["spec"].get("securityContext")
    user = int(re.search(r"useradd .*--uid (\d+) --user-group rational\n", (GKE / "Dockerfile").read_text())[1])
    assert context == {"runAsUser": user, "runAsGroup": user, "fsGroup": user}


def test_the_image_has_what_an_installation_needs():
    """Everything that pyproject.toml names as a file is copied, and nobody is root."""
    lines = (GKE / "Dockerfile").read_text()
    copied = {word for line in lines.splitlines() if line.startswith("COPY") for word in line.split()[1:-1]}
    assert {"pyproject.toml", "README.md", "LICENSE", "configs", "rational_jax", "constraints.txt"} == copied
    assert all((ROOT / name).exists() for name in copied)
    assert "\nUSER rational\n" in lines
