"""The bodies that do more than call a step; the pipeline's own tests run all of them."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from kfp import dsl
from kfp.dsl import HTML, Artifact, Markdown

from components import ops
from components.generate_data import generate
from components.train import FLAGS as TRAINER_FLAGS
from trainer.common import storage
from trainer.data import manifest


@pytest.fixture
def metrics_file(tmp_path):
    scores = {"gap": 0.5, "hit_at_1": 0.7, "perr": 0.6, "map": 0.1}
    path = tmp_path / "metrics.json"
    metrics = {"challenger": scores, "champion": None, "champion_version": None}
    path.write_text(json.dumps(metrics | {"frequency_gap": 0.1}))
    return Artifact(uri=str(path))


@pytest.mark.parametrize("min_gap, accepted", [(0.4, True), (0.6, False)])
def test_gate_shows_its_verdict(metrics_file, tmp_path, min_gap, accepted):
    verdict = Markdown(uri=str(tmp_path / "verdict.md"))
    outcome = ops.gate.python_func(
        metrics_file=metrics_file,
        gate_confidence=0.95,
        gate_min_improvement=0.0,
        gate_metric_margin=0.0,
        gate_slice_margin=0.0,
        gate_min_support=1,
        gate_min_gap=min_gap,
        gate_min_hit_at_1=0.0,
        gate_min_perr=0.0,
        gate_min_map=0.0,
        gate_first_model="accept",
        gate_force_reason="",
        output_dir=str(tmp_path),
        run_name="nightly",
        job_name="",
        job_id="",
        reason=str(tmp_path / "reason"),
        verdict=verdict,
    )
    reason = (tmp_path / "reason").read_text()
    assert outcome is accepted
    title = "First" if accepted else "Rejected"
    text = (tmp_path / "verdict.md").read_text()
    assert text.startswith(f"# {title}\n\n{reason}\n")
    assert f"| min_gap | GAP of {min_gap:g} or more | GAP is 0.5000 |" in text
    written = json.loads((tmp_path / "runs" / "nightly" / "verdict.json").read_text())
    assert (written["accepted"], written["reason"]) == (accepted, reason)


DATA_FORMAT = ("feature_names", "feature_sizes", "frame_features", "num_classes")
FLAGS = {
    name: TRAINER_FLAGS[name].default or 0
    for name in ops.validate_data.component_spec.inputs
    if name in TRAINER_FLAGS and name not in (*DATA_FORMAT, "num_gpu")
}


@pytest.fixture
def validate_data(tmp_path):
    def validate_data(
        train_data: str,
        eval_data: str,
        flags: dict | None = None,
        scheduled_at: str = dsl.PIPELINE_JOB_SCHEDULE_TIME_UTC_PLACEHOLDER,
        validation_flags: str = "",
    ):
        return ops.validate_data.python_func(
            train_data=train_data,
            eval_data=eval_data,
            feature_names="mean_rgb,mean_audio",
            feature_sizes="1024,128",
            frame_features=False,
            num_classes=3,
            **FLAGS | (flags or {}),
            vocabulary="",
            fail_on="error",
            schema="",
            baseline="",
            validation_flags=f"--runner=FnApiRunner {validation_flags}",
            output_dir=str(tmp_path / "output"),
            run_name="nightly",
            job_name="",
            job_id="1f2e",
            scheduled_at=scheduled_at,
            reuse_training=True,
            trainer_flags="",
            num_gpu="0",
            num_workers=1,
            commit="0123456789ab",
            libraries="0",
            images={"data": "data@sha256:1", "trainer": "trainer@sha256:2"},
            data_statistics=Artifact(uri=str(tmp_path / "statistics.json")),
            validation_report=HTML(uri=str(tmp_path / "report.html")),
        )

    return validate_data


def test_validate_data_fills_in_the_day_and_tells_which_files_it_read(validate_data, tmp_path):
    data = generate(str(tmp_path / "set"), num_videos=60, num_classes=3)
    midnight_may_come = [datetime.now(UTC) + timedelta(days=days) for days in (0, 1)]
    for day in midnight_may_come:
        (tmp_path / f"{day:%Y%m%d}").symlink_to(data)
    validated = validate_data(f"{tmp_path}/{{date}}/train*", f"{tmp_path}/{{date:%Y%m%d}}/eval*")
    train_data, eval_data, train_dir, argv = validated
    assert train_dir.startswith(f"{tmp_path}/output/train/")
    assert "--num_classes=3" in argv
    plan_file = tmp_path / "output" / "runs" / "nightly-1f2e" / "plan.json"
    assert json.loads(plan_file.read_text()) == {
        "train_data": train_data,
        "eval_data": eval_data,
        "train_dir": train_dir,
        "trainer_argv": argv,
    }
    (folder,) = {Path(file).parent for file in manifest.expand(train_data)}
    assert folder.name in [f"{day:%Y%m%d}" for day in midnight_may_come]
    assert manifest.expand(train_data) == storage.glob(f"{folder}/train*")
    assert manifest.expand(eval_data) == storage.glob(f"{folder}/eval*")
    run = json.loads(plan_file.with_name("run.json").read_text())
    assert (run["run_id"], run["commit"]) == ("1f2e", "0123456789ab")
    assert run["images"]["trainer"] == "trainer@sha256:2"
    assert run["parameters"]["num_classes"] == 3


def test_a_flag_of_the_trainer_is_checked_before_data_is_read(validate_data, tmp_path):
    with pytest.raises(SystemExit, match="--batch_size must be at least 1; got 0"):
        validate_data("no such file", "nor this", flags={"batch_size": 0})
    record = tmp_path / "output" / "runs" / "nightly-1f2e" / "steps" / "validate_data.json"
    assert "--batch_size" in json.loads(record.read_text())["error"]


def test_validate_data_reads_the_files_of_the_day_that_was_scheduled(validate_data, tmp_path):
    data = generate(str(tmp_path / "20260301"), num_videos=60, num_classes=3)
    train_data, _, _, _ = validate_data(
        f"{tmp_path}/{{date}}/train*", f"{data}/eval*", scheduled_at="2026-03-01T02:00:00Z"
    )
    assert manifest.expand(train_data) == storage.glob(f"{tmp_path}/20260301/train*")


@pytest.mark.parametrize("name", ["max_label_linf", "max_label_js", "max_mean_shift"])
def test_validate_data_takes_the_thresholds_of_drift(validate_data, name):
    with pytest.raises(SystemExit, match=f"{name} must be 0 or more; got -1"):
        validate_data("train*", "eval*", validation_flags=f"--{name}=-1")
