"""Every profile, for every target, as the cluster receives it."""

import re

import pytest
import yaml
from google.protobuf import json_format
from kfp.kubernetes import kubernetes_executor_config_pb2
from kfp.pipeline_spec import pipeline_spec_pb2

from pipeline.compile import CompileConfig, compile_pipeline
from pipeline.graphs import train as graph
from pipeline.package import LOADER
from pipeline.profiles import profile as profiles
from trainer.common.errors import UserError

GIVEN = {"train_data": "gs://b/train*", "eval_data": "gs://b/eval*", "output_dir": "gs://b/out"}
STEPS = {"validate-data", "train", "evaluate", "gate", "export-model", "publish", "summary"}
PLACEHOLDER = re.compile(r"\{\{\$\.inputs\.parameters\['(.+?)'\]\}\}")


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    """(Profile, target) -> the YAML's documents."""
    documents = {}
    for name in profiles.names():
        config = CompileConfig(output_dir=str(tmp_path_factory.mktemp(name)), profile=name)
        for target, file in compile_pipeline(config).items():
            documents[name, target] = list(yaml.load_all(file.read_text(), LOADER))
    return documents


def steps_of(documents: list[dict], values: dict) -> dict[str, dict]:
    """Step -> its container, its Kubernetes settings and its task, with all parameters filled in.

    A driver does it in this way: a graph hands down what its tasks name, and nothing else.
    """
    spec = documents[0]
    platform = documents[1]["platforms"]["kubernetes"] if len(documents) > 1 else {}
    settings = platform.get("deploymentSpec", {}).get("executors", {})
    defaults = spec["root"]["inputDefinitions"]["parameters"].items()
    inputs = {name: given["defaultValue"] for name, given in defaults if given.get("isOptional")}
    found = {}

    def walk(part: dict, inputs: dict):
        for name, task in part["dag"]["tasks"].items():
            handed_down = {
                key: inputs[source["componentInputParameter"]]
                for key, source in task.get("inputs", {}).get("parameters", {}).items()
                if "componentInputParameter" in source
                and not key.startswith("pipelinechannel--gate")
                and source["componentInputParameter"] in inputs
            }
            component = spec["components"][task["componentRef"]["name"]]
            if "dag" in component:
                walk(component, handed_down)
                continue
            label = component["executorLabel"]
            container = spec["deploymentSpec"]["executors"][label]["container"]
            found[name] = {
                "resources": resolved_resources(container.get("resources", {}), handed_down),
                "kubernetes": filled_in(settings.get(label, {}), inputs),
                "task": task,
            }

    walk(spec["root"], inputs | values)
    return found


def resolved_resources(resources: dict, inputs: dict) -> dict:
    """The resources as Kubeflow 2.17's driver sets them on the pod.

    The driver reads each parameter as a string. Any other type reads as "", and an accelerator
    with an empty count is left out without an error.
    """
    resources = filled_in(
        resources, {n: v if isinstance(v, str) else "" for n, v in inputs.items()}
    )
    if not resources.get("accelerator", {}).get("resourceCount"):
        resources.pop("accelerator", None)
    return resources


def filled_in(value, inputs: dict):
    if isinstance(value, dict):
        if set(value) == {"componentInputParameter"}:
            return inputs[value["componentInputParameter"]]
        return {key: filled_in(item, inputs) for key, item in value.items()}
    if isinstance(value, list):
        return [filled_in(item, inputs) for item in value]
    if isinstance(value, str):
        whole = PLACEHOLDER.fullmatch(value)
        return inputs[whole[1]] if whole else value
    return value


EVERY = [(name, target) for name in profiles.names() for target in ("kubeflow", "vertex")]


@pytest.mark.parametrize("name, target", EVERY)
def test_compiled_files_are_valid_messages_of_the_server(compiled, name, target):
    spec, *rest = compiled[name, target]
    json_format.ParseDict(spec, pipeline_spec_pb2.PipelineSpec())  # refuses unknown fields
    assert len(rest) == (1 if target == "kubeflow" else 0)
    for platform in rest:
        json_format.ParseDict(platform, pipeline_spec_pb2.PlatformSpec())
        for settings in platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"].values():
            message = kubernetes_executor_config_pb2.KubernetesExecutorConfig()
            json_format.ParseDict(settings, message)


@pytest.mark.parametrize("name, target", EVERY)
def test_each_profile_has_its_own_pipeline(compiled, name, target):
    # `schedule --latest` runs its newest version.
    expected = "yt8m-pipeline" if name == "cpu" else f"yt8m-pipeline-{name}"
    assert compiled[name, target][0]["pipelineInfo"]["name"] == expected


@pytest.mark.parametrize("name", profiles.names())
def test_training_pod_has_the_profiles_resources(compiled, name):
    train = steps_of(compiled[name, "kubeflow"], GIVEN)["train"]
    wanted = profiles.read(name).train
    assert train["resources"] == {
        "accelerator": {
            "resourceType": "nvidia.com/gpu",
            "resourceCount": str(wanted.accelerator_count),
        },
        "resourceCpuRequest": wanted.cpu,
        "resourceMemoryRequest": wanted.memory,
        "resourceMemoryLimit": wanted.memory,
    }
    settings = train["kubernetes"]
    assert settings["nodeSelector"] == {"nodeSelectorJson": wanted.node_selector}
    assert settings["tolerations"] == [{"tolerationJson": wanted.tolerations}]
    (shm,) = settings["emptyDirMounts"]
    assert (shm["mountPath"], shm["medium"]) == ("/dev/shm", "Memory")
    assert shm["sizeLimit"] == wanted.shared_memory


def test_the_training_step_is_in_the_profiles_queue(tmp_path):
    file = tmp_path / "mine.toml"
    cpu = (profiles.FOLDER / "cpu.toml").read_text()
    file.write_text(cpu.replace("[train]", '[train]\nqueue = "video"'))
    config = CompileConfig(str(tmp_path), profile=str(file))
    text = compile_pipeline(config)["kubeflow"].read_text()
    documents = list(yaml.load_all(text, LOADER))
    labels = {
        name: step["kubernetes"].get("podMetadata", {}).get("labels", {})
        for name, step in steps_of(documents, GIVEN).items()
    }
    assert labels.pop("train") == {"kueue.x-k8s.io/queue-name": "video"}
    assert not any(labels.values())


@pytest.mark.parametrize("name", profiles.names())
def test_run_overrides_the_profiles_resources(compiled, name):
    values = {
        "accelerator_type": "amd.com/gpu",
        "accelerator_count": "4",
        "node_cpu": "30",
        "node_memory": "200Gi",
        "node_selector": {"pool": "big"},
        "node_tolerations": [{"key": "spot", "operator": "Exists"}],
    }
    train = steps_of(compiled[name, "kubeflow"], GIVEN | values)["train"]
    assert train["resources"] == {
        "accelerator": {"resourceType": "amd.com/gpu", "resourceCount": "4"},
        "resourceCpuRequest": "30",
        "resourceMemoryRequest": "200Gi",
        "resourceMemoryLimit": "200Gi",
    }
    assert train["kubernetes"]["nodeSelector"] == {"nodeSelectorJson": {"pool": "big"}}
    assert train["kubernetes"]["tolerations"] == [{"tolerationJson": values["node_tolerations"]}]


# Kubernetes setting -> types that Kubeflow's driver resolves in it.
DRIVER_TYPES = {
    "nodeSelectorJson": {"STRUCT"},
    "tolerationJson": {"STRUCT", "LIST"},
    "pvcNameParameter": {"STRING"},
}


def parameters_in(value, path: tuple = ()):
    """Yield (path, parameter) of each parameter that a setting refers to."""
    if isinstance(value, dict):
        if set(value) == {"componentInputParameter"}:
            yield path, value["componentInputParameter"].removeprefix("pipelinechannel--")
        else:
            for key, item in value.items():
                yield from parameters_in(item, (*path, key))
    elif isinstance(value, list):
        for item in value:
            yield from parameters_in(item, path)
    elif isinstance(value, str):
        for name in PLACEHOLDER.findall(value):
            yield path, name.removeprefix("pipelinechannel--")


@pytest.mark.parametrize("name, target", EVERY)
def test_settings_refer_to_parameters_of_types_that_the_driver_resolves(compiled, name, target):
    spec, *rest = compiled[name, target]
    types = {
        parameter.removeprefix("pipelinechannel--"): given["parameterType"]
        for component in (spec["root"], *spec["components"].values())
        for parameter, given in component.get("inputDefinitions", {}).get("parameters", {}).items()
    }
    found = set()
    for executor in spec["deploymentSpec"]["executors"].values():
        container = executor["container"]
        for part in ("image", "resources"):
            for path, parameter in parameters_in(container.get(part)):
                found.add(path[-1])
                assert types[parameter] == "STRING", parameter
    assert found >= {"resourceCount", "resourceType"}
    for platform in rest:
        executors = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
        for path, parameter in parameters_in(executors):
            assert types[parameter] in DRIVER_TYPES[path[-1]], (path, parameter)
    for component in (spec["root"], *spec["components"].values()):
        for task in component.get("dag", {}).get("tasks", {}).values():
            assert not list(parameters_in(task.get("retryPolicy", {})))  # constants only


@pytest.mark.parametrize("name", profiles.names())
def test_volume_is_mounted_by_every_step_or_none(compiled, name):
    volume = profiles.read(name).volume
    for step, given in steps_of(compiled[name, "kubeflow"], GIVEN).items():
        mounts = [(m["constant"], m["mountPath"]) for m in given["kubernetes"].get("pvcMount", [])]
        assert mounts == ([(volume.claim, volume.path)] if volume else []), step


@pytest.mark.parametrize("name", profiles.names())
def test_no_step_runs_as_root(compiled, name):
    for step, given in steps_of(compiled[name, "kubeflow"], GIVEN).items():
        assert given["kubernetes"]["securityContext"] == {"runAsNonRoot": True}, step


@pytest.mark.parametrize("name, target", EVERY)
def test_every_step_requests_resources(compiled, name, target):
    steps = steps_of(compiled[name, target], GIVEN)
    assert set(steps) == STEPS
    share = profiles.read(name).other_steps
    kind = "Request" if target == "kubeflow" else "Limit"
    for step in STEPS - {"train"}:
        resources = steps[step]["resources"]
        assert resources[f"resourceCpu{kind}"] == share.cpu
        assert resources[f"resourceMemory{kind}"] == share.memory


@pytest.mark.parametrize("name", profiles.names())
def test_vertex_has_its_own_accelerator_names_and_no_kubernetes_settings(compiled, name):
    (spec,) = compiled[name, "vertex"]
    wanted = profiles.read(name).train
    train = steps_of(compiled[name, "vertex"], GIVEN)["train"]
    expected = wanted.accelerator_type.get("vertex", "ACCELERATOR_TYPE_UNSPECIFIED")
    assert train["resources"]["accelerator"]["resourceType"] == expected
    assert train["resources"]["accelerator"]["resourceCount"] == str(wanted.accelerator_count)
    assert train["resources"]["resourceCpuLimit"] == wanted.cpu
    assert train["resources"]["resourceMemoryLimit"] == wanted.memory
    parameters = spec["root"]["inputDefinitions"]["parameters"]
    assert not set(graph.KUBEFLOW_ONLY) & set(parameters)
    assert "node_selector" not in spec["pipelineInfo"]["description"]


@pytest.mark.parametrize("name, target", EVERY)
def test_killed_training_is_retried_in_its_folder(compiled, name, target):
    train = steps_of(compiled[name, target], GIVEN)["train"]["task"]
    assert train["retryPolicy"] == {
        "maxRetryCount": 8 if "spot" in name else 3,
        "backoffDuration": "30s",
        "backoffFactor": 2.0,
        "backoffMaxDuration": "2592000s",  # of all tries together
    }
    # Its folder does not depend on the attempt or the run.
    assert not {"run_name", "job_name", "job_id"} & set(train["inputs"]["parameters"])


GOOD = '[train]\ncpu = "1"\nmemory = "2Gi"\n[other_steps]\ncpu = "500m"\nmemory = "1Gi"\n'


def test_profile_in_a_file(tmp_path):
    file = tmp_path / "mine.toml"
    file.write_text(GOOD)
    assert profiles.read(str(file)).other_steps.cpu == "500m"


@pytest.mark.parametrize(
    "change, message",
    [
        (
            ("[train]", "[training]"),
            "training is no setting; expected name, other_steps",
        ),
        (('memory = "2Gi"', ""), "train.memory is missing"),
        (('cpu = "1"', 'cpus = "1"'), "train.cpus is no setting; expected accelerator_count, "),
        (('"1"', "1"), "train.cpu must be a valid string; got 1"),
        (('"2Gi"', '"2 GB"'), r"train.memory must be like 512Mi or 8Gi; got '2 GB'"),
        (
            ("[train]", "[train]\naccelerator_count = 1"),
            "train.accelerator_type.kubeflow is missing",
        ),
        ((GOOD, "x = "), "cannot be read"),
        ((GOOD, ""), "train is missing"),
    ],
)
def test_mistake_in_a_profile(tmp_path, change, message):
    file = tmp_path / "mine.toml"
    file.write_text(GOOD.replace(*change, 1))
    with pytest.raises(UserError, match=message):
        profiles.read(str(file))


def test_missing_profile_is_an_error():
    with pytest.raises(UserError, match=r"no profile 'gke'. Give one of cpu, gke-a100-spot"):
        profiles.read("gke")
