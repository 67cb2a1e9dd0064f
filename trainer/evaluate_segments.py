"""Command: python -m trainer.evaluate_segments --train_dir=... --eval_data_pattern=..."""

import sys
from dataclasses import dataclass

from trainer.common import console
from trainer.common.command_line import flag, parse
from trainer.common.errors import UserError, without_traceback


@dataclass(frozen=True)
class EvaluateSegmentsConfig:
    """Predict the segments of frame-level videos and compute mAP@K, as in the 2019 challenge."""

    train_dir: str = flag(
        "/tmp/yt8m_model/", "Directory of the trained or exported model, local or gs://.", "Files"
    )
    eval_data_pattern: str | None = flag(
        None, "File glob(s) of frame-level records, comma-separated.", "Files"
    )
    segment_label_ids_file: str | None = flag(
        None, "CSV file with the column Index: the classes to predict.", "Files"
    )
    output_file: str = flag(
        "segments.csv", "CSV file to write, in the challenge's format.", "Files"
    )
    segment_max_pred: int = flag(100_000, "Maximum number of segments per class.", "Evaluation")
    batch_size: int = flag(16, "Videos per batch, of up to 60 segments each.", "Evaluation")

    def __post_init__(self):
        for name in ("eval_data_pattern", "segment_label_ids_file"):
            if not getattr(self, name):
                raise UserError(f"--{name} must be given. Try --help.")
        for name in ("segment_max_pred", "batch_size"):
            if getattr(self, name) < 1:
                raise UserError(f"--{name} must be at least 1; got {getattr(self, name)}.")


def main(argv: list[str]):
    """Run the command."""
    with without_traceback():
        config = parse(EvaluateSegmentsConfig, argv)
        console.set_up()
        from trainer.evaluation import segments

        num_segments = segments.predict_segments(
            config.train_dir,
            config.eval_data_pattern,
            config.segment_label_ids_file,
            config.output_file,
            config.segment_max_pred,
            config.batch_size,
        )
        print(f"{num_segments} segments: {config.output_file}")
        ratings = segments.read_ratings(config.eval_data_pattern)
        if not ratings:
            print("The videos have no segment ratings; there is no mAP@K.")
            return
        value = segments.mean_average_precision(
            config.output_file, ratings, config.segment_max_pred
        )
        print(f"mAP@{config.segment_max_pred}: {value:.4f} of {len(ratings)} classes")


if __name__ == "__main__":
    main(sys.argv)
