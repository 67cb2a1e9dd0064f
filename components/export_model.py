"""The export step: write a SavedModel, and compare what it serves with the checkpoint."""

import os
import subprocess
import sys
import tempfile
from itertools import islice
from pathlib import Path

import numpy as np
import tensorflow as tf

from trainer.common.errors import UserError
from trainer.data import input_pipeline, manifest
from trainer.data.tfrecord import read_records, write_records
from trainer.serving import call_signatures, loading, saved_model
from trainer.serving.loading import TrainedModel

TOLERANCE = 1e-5  # of probabilities; the two graphs may round differently
# Videos to compare: a few of each of the first files, which hold videos in random order.
NUM_FILES, VIDEOS_PER_FILE = 4, 16


def export(train_dir: str, output_dir: str, eval_data: str, vocabulary: str = "") -> dict:
    """Export the newest checkpoint of `train_dir`, if it serves what was trained.

    The signatures of the exported model are called in a new process that imports TensorFlow alone,
    with records of the evaluation split. Their answers must agree with the checkpoint's.

    Args:
        train_dir: Directory of the checkpoints.
        output_dir: Local folder to create.
        eval_data: Manifest of the evaluation records, or globs.
        vocabulary: CSV file with class names. Empty: classes are named by their ids.

    Returns:
        The manifest, as returned by trainer.serving.saved_model.write.

    Raises:
        UserError: There is no model in `train_dir`, no record in `eval_data`, or `output_dir`
            cannot be written.
        RuntimeError: The exported model cannot be loaded, or its answers differ from the
            checkpoint's.
    """
    trained = loading.load(train_dir, vocabulary)
    records = _sample(eval_data)
    manifest = saved_model.export(train_dir, output_dir, vocabulary)
    verify(output_dir, trained, records)
    return manifest


def verify(model_dir: str, trained: TrainedModel, records: list[bytes]) -> None:
    """Check that an exported model serves what a trained model predicts.

    Raises:
        RuntimeError: It does not.
    """
    batch = input_pipeline.parse(tf.constant(records), trained.record_format, labels=False)
    inputs = {name: value.numpy() for name, value in input_pipeline.model_inputs(batch).items()}
    served = _call_signatures(model_dir, records, inputs)
    expected = trained.predict(batch).numpy()
    names = np.array([name.encode() for name in trained.class_names])
    ids = batch["id"].numpy().astype(np.bytes_)
    problems = {}
    if not np.array_equal(served["serving_default/video_id"], ids):
        problems["serving_default"] = "the video ids are not those of the records"
    for signature in ("serving_default", "features"):
        outputs = {name: served[f"{signature}/{name}"] for name in ("classes", "names", "scores")}
        problems.setdefault(signature, difference(outputs, expected, names))
    for signature, problem in problems.items():
        if problem:
            raise RuntimeError(f"Signature {signature!r} of the exported model: {problem}.")


def _sample(eval_data: str) -> list[bytes]:
    """Return a few records of the evaluation split."""
    files = manifest.expand(eval_data)[:NUM_FILES]
    records = [record for file in files for record in islice(read_records(file), VIDEOS_PER_FILE)]
    if not records:
        raise UserError(f"Expected records to verify the exported model with; {files} have none.")
    return records


def _call_signatures(
    model_dir: str, records: list[bytes], inputs: dict[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """Return the outputs of call_signatures, which runs in a new process without our packages."""
    with tempfile.TemporaryDirectory() as folder:
        paths = [str(Path(folder, name)) for name in ("records", "features.npz", "output.npz")]
        write_records(paths[0], records)
        np.savez(paths[1], **inputs)
        result = subprocess.run(
            # -I: only what is installed can be imported, not what is in the current folder.
            [sys.executable, "-I", call_signatures.__file__, model_dir, *paths],
            env=os.environ | {"CUDA_VISIBLE_DEVICES": "-1"},  # this process occupies the GPU
            capture_output=True,
            text=True,
        )
        if result.returncode:
            lines = result.stderr.strip().splitlines() or [f"exit code {result.returncode}"]
            raise RuntimeError(f"The exported model cannot be served: {lines[-1]}")
        with np.load(paths[2]) as outputs:
            return dict(outputs)


def difference(
    served: dict[str, np.ndarray], expected: np.ndarray, names: np.ndarray
) -> str | None:
    """Return how served classes differ from what is expected; None if they do not.

    Args:
        served: "classes", "names" and "scores", each [batch, top_k].
        expected: Probabilities, [batch, num_classes].
        names: Class names, [num_classes].
    """
    classes, scores = served["classes"], served["scores"]
    highest = -np.sort(-expected, axis=1)[:, : saved_model.TOP_K]
    if scores.shape != highest.shape or classes.shape != highest.shape:
        shapes = f"{scores.shape} and {classes.shape}"
        return f"expected scores and classes of shape {highest.shape}; got {shapes}"
    if classes.min() < 0 or classes.max() >= len(names):
        return f"expected class ids from 0 to {len(names) - 1}; got {classes.max()}"
    # Not the class ids themselves: two classes with the same probability may change places.
    of_classes = np.take_along_axis(expected, classes, axis=1)
    difference = max(np.abs(scores - other).max() for other in (highest, of_classes))
    if not difference < TOLERANCE:  # true for NaN, too
        return (
            "the scores must be the checkpoint's probabilities, within "
            f"{TOLERANCE}; they differ by {difference:.3g}"
        )
    if not np.array_equal(served["names"], names[classes]):
        return "the class names are not those of the vocabulary"
    return None
