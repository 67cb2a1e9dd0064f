import json
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from components import gate
from components.gate import decide
from pipeline.paths import ROOT
from trainer.common.errors import UserError
from trainer.evaluation.metrics import METRICS

SCORES = {"gap": 0.55, "hit_at_1": 0.7, "perr": 0.6, "map": 0.1}


@pytest.fixture
def judge(tmp_path):
    """judge(champion, challenger, **settings): the verdict on a model with `SCORES`.

    `challenger` replaces some of the scores; `champion` has those of the published model, if any.
    """

    def judge(champion: dict | None = None, challenger: dict | None = None, **settings):
        metrics = {
            "challenger": SCORES | (challenger or {}),
            "champion": champion,
            "champion_version": champion and "20260101000000",
        }
        (tmp_path / "metrics.json").write_text(json.dumps(metrics))
        return decide(str(tmp_path / "metrics.json"), str(tmp_path / "verdict.json"), **settings)

    return judge


def test_the_first_model_is_accepted(judge, tmp_path):
    verdict = judge()
    assert verdict.accepted
    assert verdict.reason == "GAP is 0.5500, and no model has been published before."
    assert json.loads((tmp_path / "verdict.json").read_text()) == {
        "accepted": True,
        "reason": verdict.reason,
    }


@pytest.mark.parametrize("name", METRICS)
def test_each_minimum(judge, name):
    label = METRICS[name].title
    at = judge(**{f"min_{name}": SCORES[name]})
    assert at.accepted
    assert f"{label} {SCORES[name]:.4f} reaches the minimum of {SCORES[name]:g}" in at.reason
    above = judge(**{f"min_{name}": SCORES[name] + 0.01})
    assert not above.accepted
    assert above.reason == (
        f"{label} {SCORES[name]:.4f} is below the minimum of {SCORES[name] + 0.01:g} by 0.01."
    )


def test_every_failed_check_is_a_reason(judge):
    verdict = judge(SCORES, min_gap=0.6, min_map=0.2)
    assert verdict.reason == (
        "GAP 0.5500 does not improve on 0.5500 of the published model 20260101000000; "
        "GAP 0.5500 is below the minimum of 0.6 by 0.05; "
        "mAP 0.1000 is below the minimum of 0.2 by 0.1."
    )


@pytest.mark.parametrize(
    "champion, min_improvement, accepted",
    [
        (0.54, 0, True),
        (0.55, 0, False),  # equal is no improvement
        (0.56, 0, False),
        (0.5499999, 0, True),
        (0.54, 0.01, True),  # exactly the minimum
        (0.54, 0.02, False),
    ],
)
def test_improves_on_the_champion(judge, champion, min_improvement, accepted):
    verdict = judge({"gap": champion}, min_improvement=min_improvement)
    assert verdict.accepted == accepted
    assert f"{champion:.4f} of the published model 20260101000000" in verdict.reason


def test_metric_to_compare_by(judge):
    champion = SCORES | {"gap": 0.9, "map": 0.05}
    assert judge(champion, metric="map").accepted
    assert not judge(champion, metric="gap").accepted


def test_too_small_an_improvement(judge):
    verdict = judge({"gap": 0.545}, min_improvement=0.01)
    assert verdict.reason.endswith("20260101000000 by 0.005, less than the minimum of 0.01.")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), None, "0.9"])
def test_metric_without_a_finite_value_rejects(judge, value):
    verdict = judge(challenger={"perr": value, "map": value})
    assert not verdict.accepted
    assert verdict.reason == "The new model has no finite PERR, mAP."


def test_champion_without_the_metric_can_be_replaced(judge):
    verdict = judge({"map": 0.2})
    assert verdict.accepted
    assert verdict.reason.endswith("the published model 20260101000000 has none.")


@given(st.floats(0, 1), st.floats(0, 1), st.floats(0, 1))
def test_never_accepts_a_model_that_is_not_better(new, old, min_improvement):
    metrics = {"challenger": SCORES | {"gap": new}, "champion": {"gap": old}}
    config = gate.GateConfig(metrics_file="metrics.json", min_improvement=min_improvement)
    verdict = gate._decide(metrics | {"champion_version": "1"}, config)
    assert verdict.accepted == (new > old and new >= old + min_improvement)


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"metric": "loss"}, "metric must be one of .*'gap'.* got 'loss'"),
        ({"min_gap": 1.5}, "min_gap must be from 0 to 1; got 1.5"),
        ({"min_map": float("nan")}, "min_map must be from 0 to 1; got nan"),
        ({"min_improvement": -0.1}, "min_improvement must be from 0 to 1; got -0.1"),
    ],
)
def test_settings_out_of_range(judge, settings, message):
    with pytest.raises(UserError, match=message):
        judge(**settings)


@pytest.mark.parametrize("text", ["{}", "[1]", "no JSON"])
def test_file_without_metrics_is_an_error(tmp_path, text):
    (tmp_path / "metrics.json").write_text(text)
    with pytest.raises(UserError, match="Expected a JSON object with challenger"):
        decide(str(tmp_path / "metrics.json"), str(tmp_path / "verdict.json"))
    assert not (tmp_path / "verdict.json").exists()


def test_command(judge, tmp_path):
    judge()
    command = [sys.executable, "-m", "components.gate", f"--metrics_file={tmp_path}/metrics.json"]
    command += [f"--output_file={tmp_path}/again.json", "--min_gap=0.9"]
    result = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("rejected: GAP 0.5500 is below the minimum of 0.9")
    assert not json.loads((tmp_path / "again.json").read_text())["accepted"]
    failure = subprocess.run(command[:3], capture_output=True, text=True, cwd=ROOT)
    assert failure.returncode == 1
    assert failure.stderr.startswith("error: --metrics_file must be given")


ADDED = """
import sys
from trainer.evaluation.metrics import METRICS, HitAt1, Metric
METRICS["added"] = Metric("Added", "An added metric.", HitAt1)
from components import gate
gate.main(["gate", *sys.argv[1:]])
"""


def test_metric_that_is_added_to_the_registry_has_a_minimum(judge, tmp_path):
    judge(challenger={"added": 0.5})
    command = [sys.executable, "-c", ADDED, f"--metrics_file={tmp_path}/metrics.json"]
    command += [f"--output_file={tmp_path}/verdict.json", "--min_added=0.75"]
    result = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert result.stdout == "rejected: Added 0.5000 is below the minimum of 0.75 by 0.25.\n"
