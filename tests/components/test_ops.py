"""The bodies that do more than call a step; the pipeline's own tests run all of them."""

import json
from datetime import UTC, datetime, timedelta

import pytest
from kfp.dsl import HTML, Artifact, Markdown

from components import ops
from components.generate_data import generate


@pytest.fixture
def metrics_file(tmp_path):
    scores = {"gap": 0.5, "hit_at_1": 0.7, "perr": 0.6, "map": 0.1}
    path = tmp_path / "metrics.json"
    path.write_text(json.dumps({"challenger": scores, "champion": None, "champion_version": None}))
    return Artifact(uri=str(path))


@pytest.mark.parametrize("min_gap, accepted", [(0.4, True), (0.6, False)])
def test_gate_shows_its_verdict(metrics_file, tmp_path, min_gap, accepted):
    verdict = Markdown(uri=str(tmp_path / "verdict.md"))
    outcome = ops.gate.python_func(
        metrics_file=metrics_file,
        min_gap=min_gap,
        min_hit_at_1=0.0,
        min_perr=0.0,
        min_map=0.0,
        min_improvement=0.0,
        output_dir=str(tmp_path),
        run_name="nightly",
        job_name="",
        job_id="",
        reason=str(tmp_path / "reason"),
        verdict=verdict,
    )
    reason = (tmp_path / "reason").read_text()
    assert outcome is accepted
    title = "Accepted" if accepted else "Rejected"
    assert (tmp_path / "verdict.md").read_text() == f"# {title}\n\n{reason}\n"
    written = json.loads((tmp_path / "runs" / "nightly" / "verdict.json").read_text())
    assert written == {"accepted": accepted, "reason": reason}


@pytest.fixture
def validate_data(tmp_path):
    def validate_data(train_data: str, eval_data: str, **changes):
        thresholds = {"max_label_linf": 0.02, "max_label_js": 0.1, "max_mean_shift": 0.25}
        return ops.validate_data.python_func(
            train_data=train_data,
            eval_data=eval_data,
            feature_names="mean_rgb,mean_audio",
            feature_sizes="1024,128",
            frame_features=False,
            num_classes=3,
            vocabulary="",
            fail_on="error",
            schema="",
            baseline="",
            **thresholds | changes,
            beam_options="--runner=FnApiRunner",
            output_dir=str(tmp_path / "output"),
            run_name="nightly",
            job_name="",
            job_id="",
            statistics=Artifact(uri=str(tmp_path / "statistics.json")),
            report=HTML(uri=str(tmp_path / "report.html")),
        )

    return validate_data


def test_validate_data_fills_in_the_day_and_tells_which_files_it_read(validate_data, tmp_path):
    data = generate(str(tmp_path / "set"), num_videos=60, num_classes=3)
    midnight_may_come = [datetime.now(UTC) + timedelta(days=days) for days in (0, 1)]
    for day in midnight_may_come:
        (tmp_path / f"{day:%Y%m%d}").symlink_to(data)
    validated = validate_data(f"{tmp_path}/{{date}}/train*", f"{tmp_path}/{{date:%Y%m%d}}/eval*")
    fingerprint, train_data, eval_data = validated
    assert len(fingerprint) >= 16
    day = train_data.split("/")[-2]
    assert day in [f"{day:%Y%m%d}" for day in midnight_may_come]
    assert train_data == f"{tmp_path}/{day}/train*"
    assert eval_data == f"{tmp_path}/{day}/eval*"


@pytest.mark.parametrize("name", ["max_label_linf", "max_label_js", "max_mean_shift"])
def test_validate_data_takes_the_thresholds_of_drift(validate_data, name):
    with pytest.raises(SystemExit, match=f"{name} must be 0 or more; got -1"):
        validate_data("train*", "eval*", **{name: -1.0})
