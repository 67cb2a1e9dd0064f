import json

import pytest


@pytest.fixture(params=["local", "gs"])
def publish_dir(request, tmp_path) -> str:
    if request.param == "local":
        return str(tmp_path / "output" / "published")
    return request.getfixturevalue("gcs_bucket") + "/output/published"


@pytest.fixture
def exported(tmp_path):
    """exported(name, gap): folder and metrics.json of a small exported model."""

    def export(name: str, gap: float = 0.5) -> tuple[str, str]:
        folder = tmp_path / f"model-{name}"
        (folder / "variables").mkdir(parents=True)
        (folder / "variables" / "variables.index").write_text(name)
        (folder / "saved_model.pb").write_text(name)
        manifest = {"created": "2026-01-02T03:04:05+00:00", "source": name, "step": 7}
        manifest |= {"model_flags": {"model": "LogisticModel"}, "libraries": {"keras": "3.15"}}
        (folder / "manifest.json").write_text(json.dumps(manifest))
        metrics = tmp_path / f"metrics-{name}.json"
        metrics.write_text(json.dumps({"challenger": {"gap": gap}}))
        return str(folder), str(metrics)

    return export
