"""Command line: python -m components.predict --model_dir=... --data=GLOB --output_dir=..."""

import argparse
import sys

from components.predict.prediction import predict
from components.predict.report import write_report
from trainer.common import console, storage
from trainer.common.errors import without_traceback
from trainer.serving.options import FORMATS, PredictionOptions


def main(argv: list[str]) -> None:
    with without_traceback():
        flags, beam_args = _parser().parse_known_args(argv)
        console.set_up()
        options = PredictionOptions(
            flags.output_format, flags.top_k, flags.min_probability, flags.batch_size
        )
        summary = predict(flags.model_dir, flags.data, flags.output_dir, options, beam_args)
        write_report(flags.output_dir, flags.baseline)
        num_videos, num_files = summary["statistics"]["videos"], len(summary["files"])
        report = storage.join(flags.output_dir, "report.html")
        print(f"Predictions for {num_videos:,} videos in {num_files:,} files. Report: {report}")


def _parser() -> argparse.ArgumentParser:
    defaults = PredictionOptions()
    parser = argparse.ArgumentParser(
        prog="python -m components.predict",
        description="Predict the videos of every input file, and write one file of predictions for "
        "each. A run that was killed continues when it is started again.",
        epilog="All other flags are passed to Apache Beam and must have the form --name=value, "
        "e.g. --runner=FlinkRunner. The default runner is this process.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--model_dir", required=True, help="Exported model or train_dir, local or gs://.")
    add("--data", required=True, help="Manifest of the videos, or file globs, comma-separated.")
    add("--output_dir", required=True, help="Output folder, local or gs://.")
    add(
        "--output_format",
        default=defaults.output_format,
        choices=FORMATS,
        help="Format of the predictions. Default: %(default)s.",
    )
    add(
        "--top_k",
        type=int,
        default=defaults.top_k,
        help="Maximum number of classes per video. Default: %(default)s.",
    )
    add(
        "--min_probability",
        type=float,
        default=defaults.min_probability,
        help="Minimum probability of a class, 0 to 1. Default: %(default)s.",
    )
    add(
        "--batch_size",
        type=int,
        default=defaults.batch_size,
        help="Examples per batch. Default: %(default)s.",
    )
    add(
        "--baseline",
        default="",
        help="statistics.json of the training data's validation, to compare the predictions with.",
    )
    return parser


if __name__ == "__main__":
    main(sys.argv[1:])
