"""The Beam pipeline: predict every input file that is not complete yet."""

import json
import logging
from dataclasses import dataclass

import apache_beam as beam
from apache_beam.utils import shared

from components.predict.shards import Shard
from trainer.common import storage
from trainer.serving.options import PredictionOptions


class PredictShards(beam.DoFn):
    """Predict input files. Input: a Shard. No output."""

    def __init__(self, model_dir: str, options: PredictionOptions):
        self.model_dir, self.options = model_dir, options
        self.models = shared.Shared()

    def process(self, shard: Shard):
        if shard.is_complete():
            logging.info("%s: predicted before", shard.path)
            return
        from trainer.serving import prediction  # loads TensorFlow

        # One model per process, for all threads, and only if there is something to predict.
        model = self.models.acquire(lambda: _load(self.model_dir)).model
        statistics = prediction.predict_to_file(
            model, [shard.path], shard.predictions, self.options
        )
        record = {"key": shard.key, "input": shard.path, "statistics": statistics.as_json()}
        storage.write_text(shard.record, json.dumps(record) + "\n")
        logging.info("%s: %d videos", shard.path, statistics.videos)


@dataclass
class _Loaded:
    """A model that `shared.Shared` can refer to."""

    model: object


def _load(model_dir: str) -> _Loaded:
    from trainer.serving import loading

    return _Loaded(loading.load(model_dir))


class Predict(beam.PTransform):
    """Input: Shards."""

    def __init__(self, model_dir: str, options: PredictionOptions):
        super().__init__()
        self.model_dir, self.options = model_dir, options

    def expand(self, shards):
        return (
            shards
            | "DistributeFiles" >> beam.Reshuffle()
            | "PredictFiles" >> beam.ParDo(PredictShards(self.model_dir, self.options))
        )
