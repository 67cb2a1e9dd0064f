import os
import subprocess
import sys
from dataclasses import fields

import pytest
import yaml
from google.auth.credentials import AnonymousCredentials
from google.protobuf import json_format

from pipeline import package
from pipeline.compile import CompileConfig, compile_command, compile_pipeline
from pipeline.graphs import train as graph
from pipeline.graphs.common import TARGETS, Images, group_of
from pipeline.graphs.train import FLAG_DEFAULTS, GROUPS
from pipeline.paths import ROOT, VERSION
from pipeline.prepare import PackageConfig, prepare
from trainer.common.errors import UserError
from trainer.config import TrainConfig

# Inputs that kfp adds to a task for its resources.
RESOURCES = {"accelerator_type", "accelerator_count", "base_image"} | {
    f"{what}_{kind}" for what in ("cpu", "memory") for kind in ("request", "limit")
}
DATA = ["train_data=t", "eval_data=e"]
STEPS = ["validate-data", "train", "evaluate", "gate", "export-model", "publish"]


@pytest.fixture(scope="module")
def spec(compiled):
    return next(yaml.load_all(compiled["kubeflow"].read_text(), package.LOADER))


@pytest.fixture(scope="module")
def tasks(spec):
    return tasks_of(spec)


def tasks_of(spec) -> dict:
    """Step -> its task, wherever in the graph it is."""
    dags = [spec["root"], *spec["components"].values()]
    return {
        name: task for dag in dags for name, task in dag.get("dag", {}).get("tasks", {}).items()
    }


def test_submit_finds_the_files_of_compile(compiled, monkeypatch):
    monkeypatch.setattr("pipeline.prepare.BUILD", compiled["kubeflow"].parent)
    for target in ("kubeflow", "vertex"):
        found, _ = prepare(PackageConfig(target=target), ["output_dir=o", *DATA])
        assert found.text == compiled[target].read_text()


def container(spec, step):
    return spec["deploymentSpec"]["executors"][f"exec-{step}"]["container"]


def upstream(task):
    """The tasks whose outputs a task takes."""
    inputs = task["inputs"]
    used = [*inputs.get("parameters", {}).values(), *inputs.get("artifacts", {}).values()]
    outputs = [
        value.get("taskOutputParameter") or value.get("taskOutputArtifact") for value in used
    ]
    return {output["producerTask"] for output in outputs if output}


def test_steps_follow_each_other(tasks):
    assert upstream(tasks["validate-data"]) == set()
    assert upstream(tasks["train"]) == {"validate-data"}
    assert upstream(tasks["evaluate"]) == {"validate-data"}
    assert "train" in tasks["evaluate"]["dependentTasks"]
    assert upstream(tasks["gate"]) == {"evaluate"}
    assert upstream(tasks["publish"]) == {"export-model"}


def test_training_and_evaluation_use_the_validated_files(tasks):
    # Their parameters may contain dates, which validate_data replaces once.
    for step, name in (("train", "train_data"), ("evaluate", "eval_data")):
        taken = tasks[step]["inputs"]["parameters"][name]["taskOutputParameter"]
        assert taken == {"producerTask": "validate-data", "outputParameterKey": name}


def test_only_accepted_models_are_exported_and_published(spec, tasks):
    accepted = spec["components"]["comp-condition-2"]["dag"]["tasks"]
    assert set(accepted) == {"export-model", "publish"}
    condition = tasks["condition-2"]["triggerPolicy"]["condition"]
    assert condition == "inputs.parameter_values['pipelinechannel--gate-Output'] == true"


def test_summary_always_runs(spec):
    root = spec["root"]["dag"]["tasks"]
    assert set(root) == {"exit-handler-1", "summary"}
    assert root["summary"]["triggerPolicy"]["strategy"] == "ALL_UPSTREAM_TASKS_COMPLETED"
    status = root["summary"]["inputs"]["parameters"]["status"]
    assert status == {"taskFinalStatus": {"producerTask": "exit-handler-1"}}


PINNED = {"data": f"yt8m-data@sha256:{0:064}", "trainer": f"yt8m-trainer@sha256:{1:064}"}


def tasks_with(images: dict[str, str]) -> dict:
    """Step -> its task, if the pipeline has these images."""
    built = graph.build(Images(**images), TARGETS["kubeflow"])
    return tasks_of(json_format.MessageToDict(built.pipeline_spec))


def test_only_training_is_cached_and_its_key_is_the_trainers_folder():
    tasks = tasks_with(PINNED)
    cached = {step for step in [*STEPS, "summary"] if tasks[step]["cachingOptions"]}
    assert cached == {"train"}
    inputs = tasks["train"]["inputs"]["parameters"]
    assert inputs["train_dir"]["taskOutputParameter"]["outputParameterKey"] == "train_dir"
    # The run's name would change the cache key of each run.
    assert not {"run_name", "job_name", "job_id", "commit"} & set(inputs)


@pytest.mark.parametrize("name", ["data", "trainer"])
def test_nothing_is_cached_if_an_image_has_no_digest(name):
    tasks = tasks_with(PINNED | {name: f"yt8m-{name}:1.0"})
    assert not any(tasks[step]["cachingOptions"] for step in [*STEPS, "summary"])


def test_command_says_that_training_is_not_cached(tmp_path, capsys):
    compile_command(CompileConfig(str(tmp_path), registry="host/p", tag="v2"))
    assert "Training is not cached, because host/p/yt8m-trainer:v2" in capsys.readouterr().out


def test_library_versions_are_part_of_the_pipeline(tmp_path, monkeypatch):
    def compiled(lock: str) -> str:
        (tmp_path / "docker" / "trainer-cpu.txt").write_text(lock)
        return package.library_versions()

    (tmp_path / "docker").mkdir()
    monkeypatch.setattr(package, "ROOT", tmp_path)
    lock = "# via keras\nnumpy==2.4.0 \\\n    --hash=sha256:1\nkeras==3.15 ; python_version > '3'\n"
    before = compiled(lock)
    assert compiled(lock.replace("via keras", "via").replace("sha256:1", "sha256:2")) == before
    assert compiled(lock.replace("3.15", "3.16")) != before


def test_every_step_is_retried_with_backoff(tasks):
    for step in [*STEPS, "summary"]:
        policy = tasks[step]["retryPolicy"]
        assert policy["maxRetryCount"] >= 1
        assert policy["backoffDuration"] == "30s"
    assert tasks["train"]["retryPolicy"]["maxRetryCount"] == 3


def test_failed_step_is_not_retried_by_a_default_kubeflow(tasks):
    # Kubeflow's format has the number of retries, but no condition. Argo takes the condition from
    # its controller's defaults, in Kubeflow 2.17 `retryPolicy: OnError`: a lost pod or node, but no
    # exit code, as after a user error. A policy in the compiled pipeline would override that.
    for step in [*STEPS, "summary"]:
        assert set(tasks[step]["retryPolicy"]) == {
            "maxRetryCount",
            "backoffDuration",
            "backoffFactor",
            "backoffMaxDuration",
        }


def test_every_step_has_a_display_name(tasks):
    shown = [tasks[step]["taskInfo"]["name"] for step in STEPS]
    assert shown == ["Validate data", "Train", "Evaluate", "Gate", "Export model", "Publish"]


def test_steps_run_in_the_image_with_their_libraries(spec):
    with_tensorflow = {"train", "evaluate", "export-model"}
    for step in [*STEPS, "summary"]:
        image = "yt8m-trainer" if step in with_tensorflow else "yt8m-data"
        assert container(spec, step)["image"] == f"{image}:{VERSION}"


def test_registry_and_tag_are_part_of_the_images_names(tmp_path):
    config = CompileConfig(output_dir=str(tmp_path), registry="host/project/", tag="v2")
    text = compile_pipeline(config)["vertex"].read_text()
    assert (
        container(yaml.load(text, package.LOADER), "train")["image"]
        == "host/project/yt8m-trainer:v2"
    )


def test_nothing_is_installed_when_a_step_runs(compiled):
    assert "pip install" not in compiled["kubeflow"].read_text()


def test_accelerators_are_chosen_at_run_time(spec):
    assert container(spec, "train")["resources"]["accelerator"] == {
        "resourceCount": "{{$.inputs.parameters['pipelinechannel--accelerator_count']}}",
        "resourceType": "{{$.inputs.parameters['pipelinechannel--accelerator_type']}}",
    }


def test_no_step_has_an_input_that_kfp_uses_for_its_resources(spec):
    for name, component in spec["components"].items():
        if "executorLabel" in component:
            inputs = component["inputDefinitions"]["parameters"]
            assert not RESOURCES & set(inputs), name


def test_inputs_of_a_task_are_inputs_of_its_dag(spec):
    # kfp forgets parameters that only a resource of a nested task uses.
    for name, component in {"root": spec["root"], **spec["components"]}.items():
        given = component.get("inputDefinitions", {}).get("parameters", {})
        for task in component.get("dag", {}).get("tasks", {}).values():
            for value in task["inputs"]["parameters"].values():
                assert value.get("componentInputParameter") in {None, *given}, name
            inner = spec["components"][task["componentRef"]["name"]]
            wanted = inner.get("inputDefinitions", {}).get("parameters", {})
            assert set(wanted) <= set(task["inputs"]["parameters"]), name


def test_parameters_are_documented_and_the_description_names_each(spec):
    parameters = spec["root"]["inputDefinitions"]["parameters"]
    needed = {name for name, given in parameters.items() if not given.get("isOptional")}
    assert needed == {"train_data", "eval_data", "output_dir"}
    description = spec["pipelineInfo"]["description"]
    for name, given in parameters.items():
        text = " ".join(given["description"].split())
        assert text
        assert ("defaultValue" in given) == (name not in needed)  # by which the UI's form marks it
        assert description.count(f"`{name}`") == 1
        assert (f"- `{name}`: {text}" in description) == (name in needed)


def test_the_trainers_flags_keep_their_defaults(spec):
    parameters = spec["root"]["inputDefinitions"]["parameters"]
    flags = {flag.name: flag.default for flag in fields(TrainConfig)}
    shared = set(flags) & set(parameters) - {*FLAG_DEFAULTS}
    assert len(shared) >= 8
    for name in shared:
        assert parameters[name]["defaultValue"] == flags[name], name


def test_the_form_of_the_ui_is_short_and_keeps_groups_together(spec):
    # Kubeflow's UI sorts the parameters by name, and has neither titles nor descriptions.
    names = sorted(spec["root"]["inputDefinitions"]["parameters"])
    assert len(names) <= 40
    for title, members in GROUPS.items():
        for prefix in [name for name in members if name.endswith("_")]:
            places = [place for place, name in enumerate(names) if name.startswith(prefix)]
            assert places == list(range(places[0], places[0] + len(places))) if places else True
            assert {group_of(names[place], GROUPS) for place in places} <= {title}


def test_the_description_fits_the_card_in_which_the_ui_shows_it(spec):
    # The card is about 60 characters wide and does not scroll; a table would be cut off.
    description = spec["pipelineInfo"]["description"]
    lines = [line for line in description.splitlines() if line]
    assert lines[0].endswith("publish it if it is better.")
    assert "|" not in description
    assert sum(1 + len(line) // 60 for line in lines) < 50
    assert [line.partition(":")[0] for line in lines if line.startswith("- ")][3:] == [
        f"- **{title}**" for title in GROUPS if title != "Required"
    ]


def test_kubernetes_settings_are_a_separate_document(compiled):
    _, platform = yaml.load_all(compiled["kubeflow"].read_text(), package.LOADER)
    executors = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    (shm,) = executors["exec-train"]["emptyDirMounts"]
    assert shm["mountPath"] == "/dev/shm"
    assert shm["medium"] == "Memory"


def test_the_vertex_file_loads_in_its_client_without_a_network(compiled):
    from google.cloud import aiplatform

    job = aiplatform.PipelineJob(
        display_name="nightly",
        template_path=str(compiled["vertex"]),
        pipeline_root="gs://bucket/root",
        parameter_values={
            "train_data": "gs://bucket/train*",
            "eval_data": "gs://bucket/eval*",
            "output_dir": "/gcs/bucket/models",
            "accelerator_type": "NVIDIA_L4",
            "accelerator_count": "1",
        },
        project="project",
        location="europe-west4",
        credentials=AnonymousCredentials(),
    )
    assert job.pipeline_spec["pipelineInfo"]["name"] == "yt8m-pipeline"
    default = job.pipeline_spec["root"]["inputDefinitions"]["parameters"]["accelerator_type"]
    assert default["defaultValue"] == "ACCELERATOR_TYPE_UNSPECIFIED"


def test_the_spec_is_small(compiled):
    # Kubernetes stores it three times in an object of at most 1.5 MiB.
    assert all(file.stat().st_size < 200_000 for file in compiled.values())


def test_compiling_is_deterministic_and_loads_neither_tensorflow_nor_beam(compiled, tmp_path):
    code = (
        "import sys; from pipeline import compile as c; c.compile_command(c.CompileConfig('out'));"
        "print([m for m in ('tensorflow', 'keras', 'apache_beam') if m in sys.modules])"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONHASHSEED": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert ran.stdout.endswith("[]\n")
    for file in compiled.values():
        assert (tmp_path / "out" / file.name).read_bytes() == file.read_bytes()


def test_folder_that_cannot_be_created_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"Cannot write the compiled pipeline to .*file/build"):
        compile_pipeline(CompileConfig(output_dir=str(tmp_path / "file" / "build")))
