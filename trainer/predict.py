"""Command: python -m trainer.predict --train_dir=... --input_data_pattern=... --output_file=..."""

import sys
from dataclasses import dataclass

from trainer.common import console
from trainer.common.command_line import flag, parse
from trainer.common.errors import UserError, without_traceback


@dataclass(frozen=True)
class PredictConfig:
    """Write the top classes of every video to a CSV file, in input order."""

    train_dir: str = flag(
        "/tmp/yt8m_model/", "Directory of the trained or exported model, local or gs://.", "Files"
    )
    input_data_pattern: str | None = flag(
        None, "File glob(s) for the videos, comma-separated.", "Files"
    )
    output_file: str | None = flag(None, "CSV file to write, local or gs://.", "Files")
    batch_size: int = flag(512, "Examples per batch.", "Prediction")
    top_k: int = flag(20, "Number of classes to write per video.", "Prediction")

    def __post_init__(self):
        if not self.input_data_pattern:
            raise UserError("--input_data_pattern must be given: a glob of the shards to predict.")
        if not self.output_file:
            raise UserError("--output_file must be given: the CSV file to write.")
        for name in ("batch_size", "top_k"):
            if getattr(self, name) < 1:
                raise UserError(f"--{name} must be at least 1; got {getattr(self, name)}.")


def main(argv: list[str]):
    """Run the command."""
    with without_traceback():
        config = parse(PredictConfig, argv)
        console.set_up()
        from trainer.serving import submission

        num_videos = submission.predict(
            config.train_dir,
            config.input_data_pattern,
            config.output_file,
            config.batch_size,
            config.top_k,
        )
        print(f"Wrote predictions for {num_videos:,} videos to {config.output_file}.")


if __name__ == "__main__":
    main(sys.argv)
