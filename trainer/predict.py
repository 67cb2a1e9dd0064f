"""Command: python -m trainer.predict --train_dir=... --input_data_pattern=... --output_file=..."""

import sys
from dataclasses import dataclass

from trainer.common import console
from trainer.common.command_line import flag, parse
from trainer.common.errors import UserError, without_traceback
from trainer.serving.options import FORMATS, PredictionOptions

DEFAULTS = PredictionOptions()


@dataclass(frozen=True)
class PredictConfig:
    """Write the classes with the highest probabilities of every video to a file, in input order."""

    train_dir: str = flag(
        "/tmp/yt8m_model/", "Directory of the trained or exported model, local or gs://.", "Files"
    )
    input_data_pattern: str | None = flag(
        None, "Manifest of the videos, or file globs, comma-separated.", "Files"
    )
    output_file: str | None = flag(None, "File to write, local or gs://.", "Files")
    output_format: str = flag(
        DEFAULTS.output_format,
        f"Format of the file: {', '.join(FORMATS)}. csv is the format of YouTube-8M challenge "
        "submissions.",
        "Files",
    )
    batch_size: int = flag(DEFAULTS.batch_size, "Examples per batch.", "Prediction")
    top_k: int = flag(DEFAULTS.top_k, "Maximum number of classes to write per video.", "Prediction")
    min_probability: float = flag(
        DEFAULTS.min_probability, "Minimum probability of a class to write, 0 to 1.", "Prediction"
    )

    def __post_init__(self):
        if not self.input_data_pattern:
            raise UserError("--input_data_pattern must be given: a glob of the shards to predict.")
        if not self.output_file:
            raise UserError("--output_file must be given: the file to write.")
        _ = self.options

    @property
    def options(self) -> PredictionOptions:
        """Options of the output."""
        return PredictionOptions(
            self.output_format, self.top_k, self.min_probability, self.batch_size
        )


def main(argv: list[str]):
    """Run the command."""
    with without_traceback():
        config = parse(PredictConfig, argv)
        console.set_up()
        from trainer.data import manifest
        from trainer.serving import loading, prediction

        model = loading.load(config.train_dir)
        files = manifest.expand(config.input_data_pattern)
        written = prediction.predict_to_file(model, files, config.output_file, config.options)
        print(f"Wrote predictions for {written.videos:,} videos to {config.output_file}.")


if __name__ == "__main__":
    main(sys.argv)
