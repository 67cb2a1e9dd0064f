import json
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from components import gate
from components.gate import decide, page
from pipeline.graphs.common import TARGETS, Images
from pipeline.graphs.train import build
from pipeline.parameters import parameters_of
from pipeline.paths import ROOT
from trainer.common.errors import UserError
from trainer.evaluation.bootstrap import p_value
from trainer.evaluation.metrics import METRICS

SCORES = {"gap": 0.55, "hit_at_1": 0.7, "perr": 0.6, "map": 0.1}
COUNTS = {"num_videos": 5000}


def compared(new: float, old: float, error: float) -> dict:
    """A comparison as in metrics.json, whose difference has this standard error."""

    def estimate(value):
        return {"value": value, "standard_error": error, "p_value": p_value(value, error)}

    return {
        "challenger": estimate(new),
        "champion": estimate(old),
        "difference": estimate(new - old),
    }


def slice_of(new: float, old: float, error: float, num_videos: int = 500) -> dict:
    return {
        "slicing": "Labels of the video",
        "slice": "2",
        "num_videos": num_videos,
        "num_positives": 2 * num_videos,
        "gap": compared(new, old, error),
    }


@pytest.fixture
def judge(tmp_path):
    """judge(champion, challenger, error, slices, **settings): the verdict on a model.

    The model has `SCORES`, some replaced by `challenger`; the published one has `champion`, with
    `SCORES` for what it leaves out, or there is none. Differences have the standard error `error`.
    """

    def judge(champion=None, challenger=None, error=0.001, slices=(), **settings):
        new = SCORES | COUNTS | (challenger or {})
        metrics = {"challenger": new, "champion": None, "champion_version": None}
        if champion is not None:
            old = SCORES | COUNTS | champion
            metrics |= {
                "champion": old,
                "champion_version": "20260101000000",
                "comparison": {name: compared(new[name], old[name], error) for name in METRICS},
                "slices": list(slices),
            }
        metrics["frequency_gap"] = 0.05
        (tmp_path / "metrics.json").write_text(json.dumps(metrics))
        return decide(str(tmp_path / "metrics.json"), str(tmp_path / "verdict.json"), **settings)

    return judge


def rule(verdict, name):
    """The only rule with this name."""
    (found,) = (rule for rule in verdict.rules if rule.name == name)
    return found


def failed(verdict) -> list[str]:
    return [rule.name for rule in verdict.rules if not rule.passed]


def test_first_model(judge, tmp_path):
    verdict = judge()
    assert (verdict.accepted, verdict.outcome) == (True, "first")
    assert verdict.reason == "GAP is 0.5500, and no model has been published before."
    written = json.loads((tmp_path / "verdict.json").read_text())
    assert written["reason"] == verdict.reason
    assert written["rules"][0]["numbers"] == {"gap": 0.55, "frequency_gap": 0.05}


def test_first_model_must_beat_the_class_frequencies(judge):
    verdict = judge(challenger={"gap": 0.05})
    assert (verdict.accepted, verdict.outcome) == (False, "rejected")
    assert verdict.reason.endswith(
        "required: GAP above 0.0500, which ranking the classes by their frequency reaches."
    )
    assert judge(challenger={"gap": 0.0001}, gate_first_model="accept").outcome == "first"


@pytest.mark.parametrize("name", METRICS)
@pytest.mark.parametrize("champion", [None, {"gap": 0.5}])
def test_each_minimum(judge, name, champion):
    at = judge(champion, **{f"gate_min_{name}": SCORES[name]})
    assert at.accepted
    assert rule(at, f"min_{name}").numbers == {
        name: SCORES[name],
        f"gate_min_{name}": SCORES[name],
    }
    above = judge(champion, gate_first_model="accept", **{f"gate_min_{name}": SCORES[name] + 0.01})
    assert not above.accepted
    assert above.reason == (
        f"{METRICS[name].title} is {SCORES[name]:.4f}; required: {METRICS[name].title} of "
        f"{SCORES[name] + 0.01:g} or more."
    )


@pytest.mark.parametrize(
    "champion, error, accepted",
    [
        (0.54, 0.004, True),  # 2.5 standard errors
        (0.54, 0.006, False),  # 1.67
        (0.55, 0.004, False),
        (0.55, 0.0, False),  # the same predictions
        (0.56, 0.004, False),
        (0.5499999, 0.001, False),
    ],
)
def test_improvement_must_be_significant(judge, champion, error, accepted):
    verdict = judge({"gap": champion}, error=error, gate_min_improvement=0.0)
    assert verdict.accepted == accepted
    assert verdict.outcome == ("accepted" if accepted else "rejected")
    assert f"vs {champion:.4f} of published version 20260101000000: " in verdict.reason


def test_interval_by_hand(judge):
    verdict = judge({"gap": 0.54}, error=0.004)
    numbers = rule(verdict, "improvement").numbers
    # 0.01 - 1.96 * 0.004 and 0.01 + 1.96 * 0.004
    assert numbers["low"] == pytest.approx(0.00216, abs=1e-5)
    assert numbers["high"] == pytest.approx(0.01784, abs=1e-5)
    assert numbers["p_value"] == pytest.approx(0.0124, abs=1e-4)
    assert ": +0.0100 (95% CI +0.0022 to +0.0178), p = 0.012." in verdict.reason
    assert not judge({"gap": 0.54}, error=0.004, gate_confidence=0.99).accepted


def test_minimum_improvement(judge):
    assert judge({"gap": 0.54}, gate_min_improvement=0.009).accepted
    # What another seed changes is no improvement, however precisely it is measured.
    assert not judge({"gap": 0.5491}, error=0.0001).accepted
    verdict = judge({"gap": 0.54}, gate_min_improvement=0.011)
    assert verdict.reason == "GAP differs by +0.01; required: an improvement of 0.011 or more."


def test_metric_to_compare_by(judge):
    champion = {"gap": 0.551, "map": 0.05}
    assert judge(champion, gate_metric="map").accepted
    assert not judge(champion).accepted


def test_no_metric_may_be_significantly_worse(judge):
    # Better in GAP, much worse in mAP.
    verdict = judge({"gap": 0.54, "map": 0.3})
    assert failed(verdict) == ["metric"]
    assert "mAP differs by -0.2000" in verdict.reason
    assert judge({"gap": 0.54, "map": 0.3}, gate_metric_margin=0.2).accepted
    # 0.106 is worse by 0.006: by more than the margin, but not significantly.
    assert judge({"gap": 0.54, "map": 0.106}).accepted
    assert not judge({"gap": 0.54, "map": 0.106}, error=0.0001).accepted


def test_no_slice_may_be_significantly_worse(judge):
    worse = slice_of(0.40, 0.45, 0.005)
    verdict = judge({"gap": 0.54}, slices=[slice_of(0.5, 0.4, 0.005), worse])
    assert failed(verdict) == ["slice"]
    assert "GAP in Labels of the video: 2 (500 videos) differs by -0.0500" in verdict.reason
    assert judge({"gap": 0.54}, slices=[worse], gate_slice_margin=0.05).accepted


def test_small_slices_are_not_compared(judge):
    worse = slice_of(0.40, 0.45, 0.005, num_videos=99)
    assert judge({"gap": 0.54}, slices=[worse]).accepted
    assert not judge({"gap": 0.54}, slices=[worse], gate_min_support=99).accepted


def test_more_slices_need_more_evidence(judge):
    # 2.2 standard errors below the margin: significant alone (1.96), not among 20 (3.02).
    worse, equal = slice_of(0.40, 0.42, 0.0045), slice_of(0.5, 0.5, 0.005)
    assert not judge({"gap": 0.54}, slices=[worse]).accepted
    assert judge({"gap": 0.54}, slices=[worse, *[equal] * 19]).accepted


def test_minimum_support(judge):
    verdict = judge({"gap": 0.54}, challenger={"num_videos": 99})
    assert failed(verdict) == ["support"]
    assert verdict.reason == (
        "The evaluation has 99 videos; required: at least 100 evaluation videos."
    )


def test_every_failed_rule_is_a_reason(judge):
    verdict = judge({}, gate_min_gap=0.6, gate_min_map=0.2)
    assert failed(verdict) == ["improvement", "minimum improvement", "min_gap", "min_map"]
    assert "GAP is 0.5500; required: GAP of 0.6 or more; mAP is 0.1000" in verdict.reason


def test_forced_release(judge, tmp_path):
    verdict = judge({"gap": 0.6}, gate_force_reason="The published model is of withdrawn videos.")
    assert (verdict.accepted, verdict.outcome) == (True, "forced")
    assert verdict.reason.startswith(
        "Forced by gate_force_reason: The published model is of withdrawn videos. Failed rules: GAP"
    )
    written = json.loads((tmp_path / "verdict.json").read_text())
    assert written["force_reason"] == "The published model is of withdrawn videos."
    assert judge({"gap": 0.54}, gate_force_reason="Unneeded.").outcome == "accepted"


@pytest.mark.parametrize("value", [float("nan"), float("inf"), None, "0.9"])
def test_metric_without_a_finite_value_rejects_always(judge, value):
    verdict = judge(challenger={"perr": value, "map": value}, gate_force_reason="Publish.")
    assert verdict.outcome == "rejected"
    assert verdict.reason == "The new model has no finite PERR, mAP."


def test_page_lists_every_rule(judge):
    text = page(judge({"gap": 0.54, "map": 0.3}, gate_min_gap=0.5, gate_force_reason="Because."))
    assert text.startswith("# Forced\n")
    assert "Parameter `gate_force_reason`: Because." in text
    assert "| min_gap | GAP of 0.5 or more | GAP is 0.5500 | passed |" in text
    assert "| mAP differs by -0.2000 (-0.2020 to -0.1980) | **failed** |" in text


@given(st.floats(0, 1), st.floats(0, 1), st.floats(0, 0.1), st.floats(0, 1))
def test_accepts_only_a_significant_improvement(new, old, error, minimum):
    metrics = {
        "challenger": SCORES | COUNTS | {"gap": new},
        "champion": {"gap": old},
        "champion_version": "1",
        "comparison": {"gap": compared(new, old, error)},
    }
    config = gate.GateConfig(metrics_file="metrics.json", gate_min_improvement=minimum)
    verdict = gate._decide(metrics, config)
    significant = new - old - gate._z(0.95) * error > 0
    assert verdict.accepted == (significant and (new - old >= minimum or minimum == 0))


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"gate_metric": "loss"}, "gate_metric must be one of .*'gap'.* got 'loss'"),
        ({"gate_min_gap": 1.5}, "gate_min_gap must be from 0 to 1; got 1.5"),
        ({"gate_min_map": float("nan")}, "gate_min_map must be from 0 to 1; got nan"),
        ({"gate_min_improvement": -0.1}, "gate_min_improvement must be from 0 to 1; got -0.1"),
        ({"gate_slice_margin": -1}, "gate_slice_margin must be from 0 to 1; got -1"),
        ({"gate_confidence": 95}, "gate_confidence must be at least 0.5 and below 1; got 95"),
        ({"gate_min_support": 0}, "gate_min_support must be at least 1; got 0"),
        ({"gate_first_model": "never"}, "gate_first_model must be one of .* got 'never'"),
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


@pytest.mark.parametrize("champion, missing", [(SCORES, "comparison"), (None, "frequency_gap")])
def test_metrics_of_an_older_version_are_an_error(tmp_path, champion, missing):
    metrics = {"challenger": SCORES, "champion": champion, "champion_version": champion and "1"}
    (tmp_path / "metrics.json").write_text(json.dumps(metrics))
    with pytest.raises(UserError, match=f"has no '{missing}'"):
        decide(str(tmp_path / "metrics.json"), str(tmp_path / "verdict.json"))


def test_defaults_of_the_pipeline_are_those_of_the_gate():
    parameters = parameters_of(build(Images("data", "trainer"), TARGETS["kubeflow"]))
    defaults = gate.GateConfig(metrics_file="metrics.json")
    names = [name for name in parameters if name.startswith("gate_")]
    assert len(names) == 11
    assert {name: parameters[name].default for name in names} == {
        name: getattr(defaults, name) for name in names
    }


def test_command(judge, tmp_path):
    judge()
    command = [sys.executable, "-m", "components.gate", f"--metrics_file={tmp_path}/metrics.json"]
    command += [f"--output_file={tmp_path}/again.json", "--gate_min_gap=0.9"]
    result = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("rejected: GAP is 0.5500; required: GAP of 0.9 or more.")
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
    command += [f"--output_file={tmp_path}/verdict.json", "--gate_min_added=0.75"]
    result = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert result.stdout == "rejected: Added is 0.5000; required: Added of 0.75 or more.\n"
