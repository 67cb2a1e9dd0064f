"""Flags of the validation: thresholds for drift; all others are Apache Beam's."""

import argparse
import shlex

from components.validate_data.drift import Thresholds
from trainer.common.errors import UserError


class _Parser(argparse.ArgumentParser):
    def error(self, message: str):
        raise UserError(f"data_validation_flags: {message}.")


def add_thresholds(parser: argparse.ArgumentParser):
    """Add a flag for each threshold."""
    defaults = Thresholds()
    for name, default, meaning in (
        ("label_linf", defaults.label_linf, "difference in the relative frequency of a class"),
        ("label_js", defaults.label_js, "Jensen-Shannon distance between label distributions"),
        ("mean_shift", defaults.mean_shift, "shift of a feature mean, in standard deviations"),
    ):
        parser.add_argument(
            f"--max_{name}",
            type=float,
            default=default,
            help=f"Max {meaning}. Default: %(default)s.",
        )


def thresholds(flags: argparse.Namespace) -> Thresholds:
    """The thresholds that were given."""
    return Thresholds(flags.max_label_linf, flags.max_label_js, flags.max_mean_shift)


def parse(text: str) -> tuple[Thresholds, list[str]]:
    """Split the pipeline parameter `data_validation_flags`, with the shell's quoting rules.

    Returns:
        The thresholds, and the options of Apache Beam.

    Raises:
        UserError: A quote is not closed, or a threshold is not a number.
    """
    parser = _Parser(add_help=False, allow_abbrev=False)
    add_thresholds(parser)
    try:
        flags, beam_args = parser.parse_known_args(shlex.split(text))
    except ValueError as error:
        raise UserError(f"data_validation_flags: {error} in {text!r}.") from None
    return thresholds(flags), beam_args
