"""Predicts: python -m trainer.predict --train_dir=... --input_data_pattern=... --output_file=..."""

import sys
from dataclasses import dataclass

from trainer.common import console
from trainer.common.command_line import flag, parse
from trainer.common.errors import UserError, without_traceback


@dataclass(frozen=True)
class PredictConfig:
    """Writes the best classes of every video to a CSV file, videos in input order."""

    train_dir: str = flag(
        "/tmp/yt8m_model/", "Where the trainer saved the model, or an exported model.", "Files"
    )
    input_data_pattern: str | None = flag(
        None, "File glob(s) of the videos, comma-separated.", "Files"
    )
    output_file: str | None = flag(None, "The CSV file to write, local or gs://.", "Files")
    batch_size: int = flag(512, "Examples per batch.", "Prediction")
    top_k: int = flag(20, "How many classes to write for a video.", "Prediction")

    def __post_init__(self):
        if not self.input_data_pattern:
            raise UserError("--input_data_pattern must be given: a glob of the videos' shards.")
        if not self.output_file:
            raise UserError("--output_file must be given: the CSV file to write.")
        for name in ("batch_size", "top_k"):
            if getattr(self, name) < 1:
                raise UserError(f"--{name} must be at least 1; got {getattr(self, name)}.")


def main(argv: list[str]):
    """Predicts as the flags say."""
    with without_traceback():
        config = parse(PredictConfig, argv)
        console.set_up()
        from trainer.serving import predictions

        num_videos = predictions.predict(
            config.train_dir,
            config.input_data_pattern,
            config.output_file,
            config.batch_size,
            config.top_k,
        )
        print(f"Wrote the classes of {num_videos:,} videos to {config.output_file}.")


if __name__ == "__main__":
    main(sys.argv)
