"""Command line: python -m components.validate_data --input train=GLOB --input eval=GLOB ..."""

import argparse
import sys

from components.validate_data.flags import add_thresholds, thresholds
from components.validate_data.references import SEVERITIES_TO_FAIL_ON, Settings
from components.validate_data.validation import validate
from trainer.common.errors import UserError, without_traceback
from trainer.data.records import NUM_CLASSES, RecordFormat, parse_features


def main(argv: list[str]) -> None:
    with without_traceback():
        flags, beam_args = _parser().parse_known_args(argv)
        features = parse_features(flags.feature_names, flags.feature_sizes)
        record_format = RecordFormat(features, flags.frame_features, flags.num_classes)
        settings = Settings(
            fail_on=flags.fail_on,
            vocabulary=flags.vocabulary,
            baseline=flags.baseline,
            schema=flags.schema,
            thresholds=thresholds(flags),
        )
        inputs = _inputs(flags.input)
        print(validate(inputs, flags.output_dir, record_format, beam_args, settings))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m components.validate_data",
        description="Validate every record of every split. Writes statistics.json, anomalies.json, "
        "report.html, statistics.pb and schema.pbtxt, and prints a fingerprint of the data.",
        epilog="All other flags are passed to Apache Beam and must have the form --name=value, "
        "e.g. --runner=FlinkRunner. The default runner is local, and uses all cores for large "
        "data.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add(
        "--input",
        action="append",
        required=True,
        metavar="NAME=GLOB",
        help="Name and files of a split, e.g. train=gs://bucket/train*. Repeat for each split.",
    )
    add("--output_dir", required=True, help="Output folder, local or gs://.")
    add(
        "--feature_names",
        default="mean_rgb,mean_audio",
        help="Comma-separated names of the features. Default: %(default)s.",
    )
    add(
        "--feature_sizes",
        default="1024,128",
        help="Comma-separated lengths of the feature vectors. Default: %(default)s.",
    )
    add("--frame_features", action="store_true", help="The data is frame-level.")
    add(
        "--num_classes",
        type=int,
        default=NUM_CLASSES,
        help="Number of classes. Default: %(default)s.",
    )
    add(
        "--fail_on",
        default="error",
        choices=SEVERITIES_TO_FAIL_ON,
        help="Minimum severity of findings that fails the run. Default: %(default)s.",
    )
    add("--vocabulary", default="", help="CSV file with class names, for the report.")
    add("--baseline", default="", help="statistics.json of an earlier run, to detect drift.")
    add("--schema", default="", help="schema.pbtxt to enforce, e.g. that of an earlier run.")
    add_thresholds(parser)
    return parser


def _inputs(arguments: list[str]) -> dict[str, str]:
    inputs = {}
    for argument in arguments:
        name, equals, pattern = argument.partition("=")
        if not (name and equals and pattern) or name in inputs:
            raise UserError(
                f"--input must be NAME=GLOB, with distinct names; got {', '.join(arguments)}."
            )
        inputs[name] = pattern
    return inputs


if __name__ == "__main__":
    main(sys.argv[1:])
