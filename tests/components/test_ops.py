"""The bodies that do more than call a step; the pipeline's own tests run all of them."""

import json

import pytest
from kfp.dsl import Artifact, Markdown

from components import ops


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
