"""Benchmark of TensorFlow Data Validation: PYTHON benchmarks/tfdv.py LEVEL PATTERN

Prints CPU seconds. Runs in a separate environment (Python 3.11 with dill and
tensorflow-data-validation==1.16.1), so it imports nothing of this project.
"""

import sys
import time

import apache_beam as beam
import tensorflow_data_validation as tfdv
from tfx_bsl.tfxio.tf_example_record import TFExampleRecord
from tfx_bsl.tfxio.tf_sequence_example_record import TFSequenceExampleRecord

LEVELS = {"video": TFExampleRecord, "frame": TFSequenceExampleRecord}


def main(level: str, pattern: str) -> None:
    start = time.process_time()
    with beam.Pipeline() as pipeline:
        _ = (
            pipeline
            | LEVELS[level](pattern, telemetry_descriptors=["benchmark"]).BeamSource()
            | tfdv.GenerateStatistics(tfdv.StatsOptions())
        )
    print(time.process_time() - start)


if __name__ == "__main__":
    main(*sys.argv[1:])
