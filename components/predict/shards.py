"""Input files, the files that their predictions go to, and which of them are complete.

Below `output_dir`:

    predictions/NAME.FORMAT   predictions of the input file NAME
    shards/NAME.json          its key and its statistics, written last: the file is complete

NAME is the input file's path below the folder that contains all input files.
"""

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from trainer.common import storage
from trainer.common.errors import UserError
from trainer.serving.options import PredictionOptions

PREDICTIONS, SHARDS = "predictions", "shards"


@dataclass(frozen=True)
class Shard:
    """An input file and its output files.

    Attributes:
        path: The input file.
        key: Digest of what decides the predictions: the model, the options and the input file.
        predictions: The file of predictions.
        record: The file that says that the predictions are complete.
    """

    path: str
    key: str
    predictions: str
    record: str

    def is_complete(self) -> bool:
        """Whether the predictions are there, of this model, these options and this input file."""
        if not (storage.exists(self.record) and storage.exists(self.predictions)):
            return False
        return storage.read_json(self.record, "key")["key"] == self.key


def plan(
    paths: Sequence[str], model_dir: str, output_dir: str, options: PredictionOptions
) -> list[Shard]:
    """Return the shards of the input files `paths`.

    Raises:
        UserError: `output_dir` contains predictions of other files.
    """
    folder = os.path.commonpath([os.path.dirname(path) for path in paths])
    common = [model_identity(model_dir), asdict(options)]
    statuses = storage.statuses(paths)
    shards = []
    for path in paths:
        name = os.path.relpath(path, folder)
        key = hashlib.sha256(json.dumps([*common, path, statuses[path]]).encode())
        predictions = f"{PREDICTIONS}/{name}.{options.output_format}"
        record = storage.join(output_dir, SHARDS, f"{name}.json")
        shards.append(Shard(path, key.hexdigest(), storage.join(output_dir, predictions), record))
    _check_no_others(shards, output_dir)
    return shards


def model_identity(model_dir: str) -> str:
    """Return a text that differs between models: the manifest, or the names of the checkpoints."""
    manifest = storage.join(model_dir, "manifest.json")
    if storage.exists(manifest):
        return storage.read_text(manifest)
    return json.dumps(storage.files_below(storage.join(model_dir, "checkpoints")))


def _check_no_others(shards: list[Shard], output_dir: str) -> None:
    folder = storage.join(output_dir, PREDICTIONS)
    found = {storage.join(folder, name) for name in storage.files_below(folder)}
    expected = {shard.predictions for shard in shards}
    others = [path for path in sorted(found - expected) if not path.endswith(".tmp")]
    if others:
        raise UserError(
            f"{output_dir!r} contains predictions of other files, e.g. {others[0]!r}. Give another "
            "output directory, or delete this one."
        )
