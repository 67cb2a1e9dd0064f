"""What TensorFlow Data Validation needs for the same files: PYTHON benchmarks/tfdv.py LEVEL PATTERN

Prints the CPU seconds. It runs in an environment of TFDV's own (Python 3.11, with dill and
tensorflow-data-validation==1.16.1), and so imports nothing of ours.
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
