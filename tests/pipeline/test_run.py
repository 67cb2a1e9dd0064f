import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from components.generate_data import generate
from components.summary import recorded, summarise
from pipeline import run
from pipeline.__main__ import main
from pipeline.local import subprocess_runner as local
from pipeline.paths import ROOT
from trainer.common.errors import UserError
from trainer.data import tfrecord

SMALL = {"num_videos": 300, "num_classes": 10}
SETTINGS = ["num_classes=10", "num_epochs=20", "batch_size=64"]


def pipeline_run(*words, cwd) -> subprocess.CompletedProcess:
    """The command, run in another folder than the repository's, as a user may."""
    return subprocess.run(
        [sys.executable, "-m", "pipeline", "run", *words],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )


def run_folder(output: Path, name: str) -> Path:
    """The folder of the run with that name."""
    (folder,) = (output / "runs").glob(f"{name}-*")
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A small data set, in a folder whose name needs quotes in a shell."""
    return Path(generate(str(tmp_path_factory.mktemp("it's data") / "set"), **SMALL))


@pytest.mark.parametrize(
    "words, message",
    [
        (["modle=MoeModel"], "There is no parameter 'modle'. Did you mean model=...?"),
        (["train_data=x"], "eval_data is missing. Give both train_data and eval_data"),
        (["train_data=nothing*", "eval_data=nothing*"], "train_data: No file matches"),
        (["gate_min_gap=55"], "gate_min_gap must be from 0 to 1; got 55.0."),
        (["num_workers=2"], "num_workers must be 1 on this machine"),
        (["trainer_flags=--sede=1"], "Unknown command line flag 'sede'."),
        (
            ["train_data=DATA/train*", "eval_data=DATA/eval*", "vocabulary=nothing.csv"],
            "vocabulary: Cannot read",
        ),
    ],
)
def test_mistake_is_an_error_before_a_step_starts(
    words, message, data, tmp_path, monkeypatch, capfd
):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match=rf"^error: {re.escape(message)}"):
        main(["run", *(word.replace("DATA", str(data)) for word in words)])
    assert capfd.readouterr() == ("", "")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_better_model_is_published_and_a_worse_one_is_not(data, tmp_path):
    files = ["train_data=it's/train*.tfrecord", "eval_data=it's/eval*.tfrecord", "output_dir=out"]
    (tmp_path / "it's").symlink_to(data)

    first = pipeline_run(
        *files, *SETTINGS, "vocabulary=it's/vocabulary.csv", "run_name=first", cwd=tmp_path
    )
    assert first.returncode == 0, first.stdout + first.stderr
    run, published = run_folder(tmp_path / "out", "first"), tmp_path / "out" / "published"
    champion = json.loads((published / "champion.json").read_text())
    assert (published / "served" / champion["version"] / "saved_model.pb").exists()
    for report in ("validation/report.html", "evaluation/report.html", "summary.html"):
        assert (run / report).exists()
        assert f"out/runs/{run.name}/{report}" in first.stdout

    assert "KFP" not in first.stdout
    assert "WARNING" not in first.stdout
    assert first.stderr == ""

    second = pipeline_run(*files, *SETTINGS, "run_name=second", "gate_min_gap=0.999", cwd=tmp_path)
    assert second.returncode == 0, second.stdout + second.stderr
    assert "rejected: The evaluation has 60 videos; required: at least 100" in second.stdout
    assert "required: a significant improvement" in second.stdout
    assert "required: GAP of 0.999 or more" in second.stdout
    assert json.loads((published / "champion.json").read_text()) == champion
    assert len(list((tmp_path / "out" / "train").iterdir())) == 1  # nothing is trained twice
    assert not (run_folder(tmp_path / "out", "second") / "publish.json").exists()


@pytest.mark.slow
def test_corrupt_shard_fails_the_run_and_is_named(data, tmp_path):
    broken = tmp_path / "broken.tfrecord"
    records = list(tfrecord.read_records(str(data / "train0000.tfrecord")))
    tfrecord.write_records(str(broken), records)
    broken.write_bytes(broken.read_bytes()[:-10])
    ran = pipeline_run(
        "train_data=broken.tfrecord",
        f"eval_data={data}/eval*.tfrecord",
        "output_dir=out",
        "run_name=broken",
        *SETTINGS,
        cwd=tmp_path,
    )
    assert ran.returncode == 1
    assert ran.stderr.startswith("error: validate_data failed: ")
    assert f"{broken}, record {len(records)}" in ran.stderr
    assert "Traceback" not in ran.stdout + ran.stderr
    summary = json.loads((run_folder(tmp_path / "out", "broken") / "summary.json").read_text())
    assert str(broken) in json.dumps(summary)
    assert (run_folder(tmp_path / "out", "broken") / "summary.html").exists()


@pytest.mark.slow
def test_training_fails_without_the_requested_gpu(data, tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")  # on a machine with GPUs, too
    files = [f"train_data={data}/train*.tfrecord", f"eval_data={data}/eval*.tfrecord"]
    ran = pipeline_run(
        *files, *SETTINGS, "output_dir=out", "run_name=gpu", "accelerator_count=1", cwd=tmp_path
    )
    assert ran.returncode == 1
    assert ran.stderr.startswith("error: train failed: TensorFlow found 0 GPUs, expected 1")
    assert "Traceback" not in ran.stdout + ran.stderr
    summary = json.loads((run_folder(tmp_path / "out", "gpu") / "summary.json").read_text())
    assert (summary["outcome"], summary["ended_by"]) == ("failed", "train")
    assert "TensorFlow found 0" in summary["error"]


def test_accepted_but_unpublished_model_is_an_error(data, tmp_path, monkeypatch):
    # kfp's local runner skips the steps of a condition that it cannot evaluate, and still reports
    # a success.
    def without_publishing(pipeline, arguments, scratch, job_id):
        folder = tmp_path / "runs" / f"test-{job_id}"
        (folder / "evaluation").mkdir(parents=True)
        scores = {"gap": 0.5, "hit_at_1": 0.5, "perr": 0.5, "map": 0.5}
        metrics = {"challenger": scores, "champion": None, "champion_version": None}
        (folder / "evaluation" / "metrics.json").write_text(json.dumps(metrics))
        (folder / "verdict.json").write_text('{"accepted": true, "reason": "Good."}')
        for step in ("validate_data", "train", "evaluate", "gate"):
            with recorded(str(folder), job_id, step):
                pass
        summarise(str(folder), job_id, "SUCCEEDED")

    monkeypatch.setattr(local, "run", without_publishing)
    arguments = {"train_data": f"{data}/train*", "eval_data": f"{data}/eval*"}
    with pytest.raises(UserError, match="without a result: export_model did not start"):
        run.run({**arguments, "output_dir": str(tmp_path), "run_name": "test"})


def test_ctrl_c_shows_no_traceback(data, monkeypatch, capsys):
    def interrupted(arguments, runner):
        raise KeyboardInterrupt

    monkeypatch.setattr(run, "run", interrupted)
    with pytest.raises(SystemExit) as raised:
        main(["run", f"train_data={data}/train*", f"eval_data={data}/eval*"])
    assert raised.value.code == 130
    assert capsys.readouterr().err.startswith("\nInterrupted. The same command starts over")
