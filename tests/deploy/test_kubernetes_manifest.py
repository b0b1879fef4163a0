"""The manifest for Kubernetes fits the APIs' schema, and its parts fit each other.

``tests/reference/kubernetes.json`` holds the schema and says where it is from.
"""

import copy
import json
from pathlib import Path

import pytest
import yaml

from slowfast_mvit.config import load_config, split_cfg_words

jsonschema = pytest.importorskip("jsonschema")

ROOT = Path(__file__).resolve().parents[2]
SCHEMA = json.loads((ROOT / "tests" / "reference" / "kubernetes.json").read_text())
JOB, POLICY = yaml.safe_load_all((ROOT / "deploy/kubernetes/pytorchjob.yaml").read_text())
WORKER = JOB["spec"]["pytorchReplicaSpecs"]["Worker"]
POD = WORKER["template"]["spec"]
[CONTAINER] = POD["containers"]
PLACE = CONTAINER["command"].index("--")
FLAGS = dict(word.split("=") for word in CONTAINER["command"][2:PLACE])


@pytest.mark.parametrize("manifest", [JOB, POLICY], ids=lambda manifest: manifest["kind"])
def test_the_manifest_fits_the_schema(manifest):
    jsonschema.validate(manifest, SCHEMA)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("spec", "elasticPolicy", "minReplica"), 4),
        (("spec", "pytorchReplicaSpecs", "Worker", "replicas"), "4"),
        (("spec", "pytorchReplicaSpecs", "Worker", "template", "spec", "container"), []),
        (("kind",), "TFJob"),
    ],
    ids=["misspelt", "a text for a number", "misspelt in the pod", "another kind"],
)
def test_the_schema_finds_mistakes(path, value):
    wrong = copy.deepcopy(JOB)
    place = wrong
    for name in path[:-1]:
        place = place[name]
    place[path[-1]] = value

    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(wrong, SCHEMA)


def test_numbers_that_belong_together_agree():
    elastic = JOB["spec"]["elasticPolicy"]
    [port] = CONTAINER["ports"]

    nodes = {WORKER["replicas"], elastic["minReplicas"], elastic["maxReplicas"]}
    assert nodes == {int(FLAGS["--nnodes"])}
    gpus = CONTAINER["resources"]["limits"]["nvidia.com/gpu"]
    assert gpus == int(FLAGS["--nproc_per_node"])
    assert elastic["rdzvPort"] == port["containerPort"]
    name = JOB["metadata"]["name"]
    assert FLAGS["--rdzv_endpoint"] == f"{name}-worker-0:{port['containerPort']}"
    assert POLICY["spec"]["podSelector"]["matchLabels"] == {"training.kubeflow.org/job-name": name}


def test_there_is_time_to_save_and_room_for_the_pixels_of_the_loader():
    from slowfast_mvit.cli.flags import LAUNCH_FLAGS

    assert POD["terminationGracePeriodSeconds"] > LAUNCH_FLAGS["--shutdown_timeout"]["default"]
    volumes = {volume["name"]: volume for volume in POD["volumes"]}
    mounts = {mount["mountPath"]: mount["name"] for mount in CONTAINER["volumeMounts"]}
    assert volumes[mounts["/dev/shm"]]["emptyDir"]["medium"] == "Memory"
    assert set(mounts.values()) == set(volumes)


def test_its_command_can_be_given():
    from slowfast_mvit.cli.flags import LAUNCH_FLAGS

    command = CONTAINER["command"]
    assert command[:2] == ["slowfast-mvit", "launch"]
    assert set(FLAGS) <= set(LAUNCH_FLAGS)
    assert command[PLACE + 1 : PLACE + 3] == ["train", "--cfg"]
    [file], overrides = split_cfg_words(command[PLACE + 3 :])
    config = load_config(file, overrides)
    workers = config.data_loader.num_workers * int(FLAGS["--nproc_per_node"])
    assert CONTAINER["resources"]["requests"]["cpu"] == str(workers)
