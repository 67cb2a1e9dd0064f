"""The model card of a published model, in Markdown and HTML."""

import json

from components import report
from components.metric_table import metric_rows
from trainer.common import storage
from trainer.evaluation.metrics import METRICS

MARKDOWN, HTML = "model_card.md", "model_card.html"


def write(folder: str, manifest: dict) -> None:
    """Write the model card of a published model to its folder.

    Args:
        folder: Folder of the model.
        manifest: Content of its manifest.
    """
    sections = _sections(manifest)
    storage.write_text(storage.join(folder, MARKDOWN), _markdown(manifest, sections))
    page = report.render("model_card.html", kind="Model card", manifest=manifest, sections=sections)
    storage.write_text(storage.join(folder, HTML), page)


def _sections(manifest: dict) -> dict[str, dict[str, str]]:
    """Title -> name -> text."""
    lineage, flags = manifest.get("lineage", {}), manifest.get("model_flags", {})
    comparison = manifest.get("comparison") or {}
    metrics = {
        row["label"]: _metric(row["new"], comparison.get(name, {}))
        for name, row in zip([*METRICS, "loss"], metric_rows(manifest["metrics"], {}), strict=True)
        if row["new"] is not None
    }
    sections = {
        "Model": {
            "Architecture": flags.get("model"),
            "Input": _input(flags),
            "Classes": flags.get("num_classes"),
            "Training steps": manifest.get("step"),
            "Previously published version": manifest.get("parent"),
            "Republished from version": manifest.get("of_version"),
            "Reason": manifest.get("reason"),
        },
        "Intended use": {
            "Task": "Multi-label classification of videos by visual and audio features.",
            "Signatures": "serving_default takes serialized records, features dense features.",
            "Limits": "The scores are meant for features that were extracted as the training "
            "data's were. Rare classes are less reliable; see the evaluation report.",
        },
        "Evaluation": metrics,
        "Verdict": {
            "Outcome": lineage.get("verdict", {}).get("outcome"),
            "Reason": lineage.get("verdict", {}).get("reason"),
        },
        "Data": {
            split: f"{data['records']:,} records in {data['files']:,} files: {data['manifest']}"
            for split, data in (lineage.get("data") or {}).items()
        },
        "Code": {
            "Commit": lineage.get("commit"),
            "Code digest": lineage.get("code_digest"),
            **{f"Image, {name}": image for name, image in (lineage.get("images") or {}).items()},
            "Libraries": _pairs(manifest.get("libraries")),
        },
        "Run": {
            "Run id": lineage.get("run_id"),
            "Folder": lineage.get("run_dir"),
            "Checkpoints": manifest.get("source"),
        },
        "Parameters": {
            name: json.dumps(v) for name, v in (lineage.get("parameters") or {}).items()
        },
    }
    known = {
        title: {name: str(text) for name, text in rows.items() if text not in (None, "")}
        for title, rows in sections.items()
    }
    return {title: rows for title, rows in known.items() if rows}


def _metric(value: float, comparison: dict) -> str:
    estimate = comparison.get("challenger")
    interval = f" ({estimate['low']:.4f} to {estimate['high']:.4f})" if estimate else ""
    return report.score(value) + interval


def _input(flags: dict) -> str | None:
    if not flags:
        return None
    level = "frame level" if flags.get("frame_features") else "video level"
    return f"{flags.get('feature_names')} ({flags.get('feature_sizes')}), {level}"


def _pairs(values: dict | None) -> str:
    return ", ".join(f"{name} {version}" for name, version in (values or {}).items())


def _markdown(manifest: dict, sections: dict[str, dict[str, str]]) -> str:
    lines = [f"# Model card: version {manifest['version']}", "", f"Published {manifest['time']}."]
    for title, rows in sections.items():
        lines += ["", f"## {title}", "", "| | |", "| --- | --- |"]
        lines += [f"| {name} | {_cell(text)} |" for name, text in rows.items()]
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
