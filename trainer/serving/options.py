"""Options of prediction. Imports no TensorFlow."""

from dataclasses import dataclass

from trainer.common.errors import UserError

FORMATS = ("csv", "jsonl", "parquet")


@dataclass(frozen=True)
class PredictionOptions:
    """Options of the output of a prediction.

    Attributes:
        output_format: A key of `prediction_files.WRITERS`.
        top_k: Maximum number of classes per video.
        min_probability: Minimum probability of a class, 0 to 1.
        batch_size: Videos per batch.

    Raises:
        UserError: A value is out of its range.
    """

    output_format: str = "csv"
    top_k: int = 20
    min_probability: float = 0.0
    batch_size: int = 512

    def __post_init__(self):
        if self.output_format not in FORMATS:
            expected = ", ".join(FORMATS)
            raise UserError(
                f"--output_format must be one of {expected}; got {self.output_format!r}."
            )
        for name in ("batch_size", "top_k"):
            if getattr(self, name) < 1:
                raise UserError(f"--{name} must be at least 1; got {getattr(self, name)}.")
        if not 0 <= self.min_probability <= 1:
            raise UserError(f"--min_probability must be 0 to 1; got {self.min_probability:g}.")
