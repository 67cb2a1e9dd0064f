"""The trainer's command: python -m trainer.train --train_data_pattern=... --train_dir=..."""

import sys

from trainer import console
from trainer.command_line import parse
from trainer.config import TrainConfig
from trainer.errors import without_traceback


def main(argv: list[str]):
    """Trains as the flags say."""
    with without_traceback():
        config = parse(TrainConfig, argv)
        console.set_up(config.log_format)
        from trainer import training

        training.train(config)


if __name__ == "__main__":
    main(sys.argv)
