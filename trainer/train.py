"""Command: python -m trainer.train --train_data_pattern=... --train_dir=..."""

import logging
import sys

from trainer.common import console
from trainer.common.command_line import parse
from trainer.common.errors import UserError, without_traceback
from trainer.config import TrainConfig


def main(argv: list[str]):
    """Run the command."""
    with without_traceback():
        config = parse(TrainConfig, argv)
        console.set_up(config.log_format)
        from trainer.training import loop

        try:
            loop.train(config)
        except UserError as error:
            if config.log_format == "text":
                raise
            logging.error(error)
            raise SystemExit(1) from None


if __name__ == "__main__":
    main(sys.argv)
