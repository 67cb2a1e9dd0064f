"""The prediction step: predict the videos of every input file, one output file each."""

import json
import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from components.predict.shards import Shard, plan
from components.validate_data.beam_options import (
    empty_pipeline,
    python_path_for_workers,
    runner_errors,
)
from trainer.common import storage
from trainer.common.errors import UserError
from trainer.data import manifest
from trainer.serving.options import PredictionOptions

SUMMARY = "predictions.json"
THREADS = 32  # on gs:// they mostly wait


def predict(
    model_dir: str,
    data_pattern: str,
    output_dir: str,
    options: PredictionOptions,
    beam_args: Sequence[str] = (),
) -> dict:
    """Predict the videos of every input file; skip the files that are complete.

    Each file of predictions is written atomically. A run that was killed continues when it is
    started again with the same arguments. No two runs may write to the same `output_dir`.

    Args:
        model_dir: An exported model, or a train_dir, local or gs://.
        data_pattern: Glob(s) of the input files, comma-separated, or a data manifest.
        output_dir: Output folder, local or gs://; see `shards`.
        options: What to write for each video.
        beam_args: Beam's command-line options, e.g. "--runner=FlinkRunner". The default runner is
            this process.

    Returns:
        The content of predictions.json: "model_dir", "options", "files" (input, predictions and
        number of videos of each) and "statistics", those of all videos.

    Raises:
        UserError: There is no model, no file matches, a record cannot be read, a file cannot be
            written, or the Beam runner fails.
    """
    shards = plan(manifest.expand(data_pattern), model_dir, output_dir, options)
    for shard in shards:
        storage.remove_temporary_files(shard.predictions)
        storage.remove_temporary_files(shard.record)
    _run(shards, model_dir, options, beam_args)
    summary = summarize(shards, model_dir, options)
    storage.write_text(storage.join(output_dir, SUMMARY), json.dumps(summary) + "\n")
    return summary


def _run(
    shards: list[Shard], model_dir: str, options: PredictionOptions, beam_args: Sequence[str]
) -> None:
    with ThreadPoolExecutor(THREADS) as threads:
        complete = list(threads.map(Shard.is_complete, shards))
    missing = [shard for shard, done in zip(shards, complete, strict=True) if not done]
    logging.info("Predicting %d of %d files.", len(missing), len(shards))
    if not missing:
        return
    # TensorFlow uses all cores, so one process per machine is enough.
    pipeline = empty_pipeline(beam_args, total_bytes=0)
    import apache_beam as beam

    from components.predict.pipeline import Predict

    with runner_errors(pipeline), python_path_for_workers(), pipeline:
        _ = (
            pipeline
            | "Files" >> beam.Create(missing, reshuffle=False)
            | "Predict" >> Predict(model_dir, options)
        )


def summarize(shards: list[Shard], model_dir: str, options: PredictionOptions) -> dict:
    """Return the content of predictions.json, from the records of all shards."""
    with ThreadPoolExecutor(THREADS) as threads:
        records = list(threads.map(lambda shard: storage.read_json(shard.record), shards))
    total = None
    for record in records:  # in the order of the files: the sums do not depend on the runner
        total = _add(total, record["statistics"])
    if total is None:
        raise UserError("There are no input files.")
    return {
        "model_dir": model_dir,
        "options": vars(options),
        "files": [
            {
                "input": shard.path,
                "predictions": shard.predictions,
                "videos": record["statistics"]["videos"],
            }
            for shard, record in zip(shards, records, strict=True)
        ],
        "statistics": total,
    }


def _add(total: dict | None, statistics: dict) -> dict:
    """Add statistics as PredictionStatistics.as_json returns them."""
    if total is None:
        return dict(statistics)
    sums = {
        name: (np.asarray(total[name]) + np.asarray(value)).tolist()
        for name, value in statistics.items()
    }
    return sums | {"expected_labels": [float(f"{v:.6g}") for v in sums["expected_labels"]]}
