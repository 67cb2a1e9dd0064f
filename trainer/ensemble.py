"""Command: python -m trainer.ensemble --member_dirs=A,B --train_dir=..."""

import sys
from dataclasses import dataclass

from trainer.common import console
from trainer.common.command_line import flag, parse
from trainer.common.errors import UserError, without_traceback


@dataclass(frozen=True)
class EnsembleConfig:
    """Average trained models into one, which is evaluated and exported like any other.

    The models must take the same features. If all were trained with the same --calibration_fraction
    and --seed, the average is recalibrated on the videos that they held out.
    """

    member_dirs: str = flag("", "Train_dirs of the members, comma-separated.", "Files")
    train_dir: str = flag("", "Directory to save the average in.", "Files")
    train_data_pattern: str = flag(
        "", "File glob(s) of the members' training dataset, for recalibration.", "Files"
    )
    seed: int = flag(0, "The members' --seed.", "Training")

    def __post_init__(self):
        for name in ("member_dirs", "train_dir"):
            if not getattr(self, name):
                raise UserError(f"--{name} must be given.")


def main(argv: list[str]):
    """Run the command."""
    with without_traceback():
        config = parse(EnsembleConfig, argv)
        console.set_up()
        from trainer.training import ensembling

        ensembling.combine(
            config.member_dirs.split(","),
            config.train_dir,
            config.train_data_pattern,
            config.seed,
        )


if __name__ == "__main__":
    main(sys.argv)
