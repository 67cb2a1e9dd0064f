"""Whole runs on a real Kubeflow, in each of their endings."""

import json
import re

import pytest

from tests.cluster.conftest import NAMESPACE, wait_for

pytestmark = pytest.mark.slow

FOREVER = "num_epochs=100000"


def folder_of(cluster, submitted, output: str) -> str:
    """The run's folder, relative to the session's."""
    (folder,) = [
        name
        for name in cluster.run("ls", f"{cluster.folder}/{output}/runs").split()
        if name.endswith(submitted.run_id)
    ]
    return f"{output}/runs/{folder}"


def summary_of(cluster, submitted, output: str) -> dict:
    return cluster.read_json(f"{folder_of(cluster, submitted, output)}/summary.json")


def train_pod(cluster, run_id: str, newer_than=None):
    """The pod that trains, when it runs."""

    def running():
        pods = [pod for pod in cluster.pods(run_id) if pod.spec.containers[0].image]
        pods = [p for p in pods if any("trainer" in c.image for c in p.spec.containers)]
        pods = [p for p in pods if newer_than is None or p.metadata.uid != newer_than]
        return pods[-1] if pods and pods[-1].status.phase == "Running" else None

    return wait_for(running)


def test_a_run_is_published_and_the_same_again_is_rejected(cluster):
    first = cluster.submit(*cluster.parameters("publish"))
    assert first.end() == 0, first.output
    summary = summary_of(cluster, first, "publish")
    assert summary["outcome"] == "published"
    assert {step["state"] for step in summary["steps"].values()} == {"done"}
    champion = cluster.read_json("publish/published/champion.json")
    assert champion["version"] == summary["version"]

    # Kubeflow caches no training in images that are named by a tag; the step finds it complete.
    look = ["sh", "-c", f"ls -R --full-time {cluster.folder}/publish/train/*/checkpoints"]
    trained = cluster.run(*look)
    second = cluster.submit(*cluster.parameters("publish"))
    assert second.end() == 0, second.output
    assert cluster.run(*look) == trained
    summary = summary_of(cluster, second, "publish")
    assert summary["outcome"] == "rejected"
    assert cluster.read_json("publish/published/champion.json") == champion


def test_batch_prediction_with_the_published_model(cluster):
    trained = cluster.submit(*cluster.parameters("predict"))
    assert trained.end() == 0, trained.output
    words = [f"data={cluster.folder}/set/eval*", f"output_dir={cluster.folder}/predict"]
    words += ["output_format=jsonl", "top_k=3"]
    run = cluster.submit(*words, pipeline=cluster.prediction)
    assert run.end() == 0, run.output
    for step in ("Validate records", "Predict", "Report"):
        assert re.search(rf"  {step} +succeeded", run.output), run.output
    predictions = f"{folder_of(cluster, run, 'predict')}/predictions"
    champion = cluster.read_json("predict/published/champion.json")
    content = cluster.read_json(f"{predictions}/predictions.json")
    assert content["model_dir"].endswith(f"/published/served/{champion['version']}")
    files = f"{cluster.folder}/{predictions}/predictions/*.jsonl"
    lines = cluster.run("sh", "-c", f"cat {files}").splitlines()
    assert len(lines) == content["statistics"]["videos"] > 0
    assert {len(json.loads(line)["predictions"]) for line in lines} == {3}
    cluster.run("ls", f"{cluster.folder}/{predictions}/report.html")


def test_no_cache_trains_a_new_model(cluster):
    for words in ([], ["--no-cache"]):
        run = cluster.submit(*words, *cluster.parameters("nocache", "gate_min_gap=1"))
        assert run.end() == 0, run.output
        assert "cached" not in run.output
    assert len(cluster.run("ls", f"{cluster.folder}/nocache/train").split()) == 2


def test_bad_data_fails_with_the_steps_own_words(cluster):
    run = cluster.submit(*cluster.parameters("bad", "train_data=/data/nothing*"))
    assert run.end() == 1
    assert "error: Validate data failed: No file matches '/data/nothing*'" in run.output
    assert len(cluster.pods(run.run_id)) == 2  # Validate data was not tried again, and Summary
    summary = summary_of(cluster, run, "bad")
    assert (summary["outcome"], summary["ended_by"]) == ("failed", "validate_data")


NO_MODEL = """mkdir -p served/1 && echo '{}' >served/1/manifest.json &&
    echo '{"version": "1", "metrics": {}, "digest": "a", "staging": "a"}' >champion.json"""


@pytest.mark.parametrize(
    "step, title, damage",
    [("evaluate", "Evaluate", NO_MODEL), ("publish", "Publish", "chmod 555 .")],
)
def test_a_later_step_that_fails_is_named_too(cluster, step, title, damage):
    output = f"{step}-fails"
    published = f"{cluster.folder}/{output}/published"
    cluster.run("sh", "-c", f"mkdir -p {published} && cd {published} && {damage}")
    run = cluster.submit(*cluster.parameters(output))
    assert run.end() == 1, run.output
    assert f"error: {title} failed: " in run.output
    summary = summary_of(cluster, run, output)
    assert (summary["outcome"], summary["ended_by"]) == ("failed", step)


def test_training_fails_if_the_gpu_that_it_was_given_is_none(cluster, fake_gpu):
    run = cluster.submit(*cluster.parameters("gpu", "accelerator_count=1"))
    assert run.end() == 1
    assert "error: Train failed: TensorFlow found 0 GPUs, expected 1" in run.output
    limits = [
        container.resources.limits
        for pod in cluster.pods(run.run_id)
        for container in pod.spec.containers
        if container.name == "main" and "trainer" in container.image
    ]
    assert [limit["nvidia.com/gpu"] for limit in limits] == ["1"]
    assert summary_of(cluster, run, "gpu")["ended_by"] == "train"


def test_a_run_that_no_node_fits_says_what_it_waits_for_and_can_be_cancelled(cluster):
    run = cluster.submit(*cluster.parameters("pending", "accelerator_count=99"))
    run.line("waiting for a node with 99 x nvidia.com/gpu (1 min)")
    run.terminate()
    assert run.end() == 3
    assert "The run was canceled." in run.output


def test_a_run_that_is_cancelled_while_it_trains(cluster):
    run = cluster.submit(*cluster.parameters("cancel", FOREVER))
    train_pod(cluster, run.run_id)
    run.terminate()
    assert run.end() == 3
    summary = summary_of(cluster, run, "cancel")
    assert (summary["outcome"], summary["ended_by"]) == ("cancelled", "train")
    assert "did not finish: the run was cancelled" in summary["error"]


def test_training_whose_pod_is_deleted_resumes(cluster):
    settings = ["num_epochs=3000", "trainer_flags=--checkpoint_minutes=0.05", "gate_min_gap=1"]
    run = cluster.submit(*cluster.parameters("kill", *settings))
    pod = train_pod(cluster, run.run_id)
    train = f"{cluster.folder}/kill/train"
    wait_for(lambda: "step-" in cluster.run("sh", "-c", f"ls {train}/*/checkpoints || true"))
    cluster.core.delete_namespaced_pod(pod.metadata.name, NAMESPACE, grace_period_seconds=0)
    resumed = train_pod(cluster, run.run_id, newer_than=pod.metadata.uid)

    def log() -> str:
        read = cluster.core.read_namespaced_pod_log
        return read(resumed.metadata.name, NAMESPACE, container="main")

    wait_for(lambda: "Resuming at step" in log())
    assert run.end() == 0, run.output
    assert summary_of(cluster, run, "kill")["outcome"] == "rejected"
