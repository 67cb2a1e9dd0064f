"""Command: python -m trainer.export --train_dir=... --output_dir=..."""

import sys
from dataclasses import dataclass

from trainer.common import console
from trainer.common.command_line import flag, parse
from trainer.common.errors import UserError, without_traceback


@dataclass(frozen=True)
class ExportConfig:
    """Export the newest checkpoint of a train_dir as a SavedModel."""

    train_dir: str = flag(
        "/tmp/yt8m_model/", "Directory of the trained model, local or gs://.", "Files"
    )
    output_dir: str | None = flag(None, "Local directory to write; must be new or empty.", "Files")
    vocabulary: str = flag("", "CSV file with the class names.", "Files")

    def __post_init__(self):
        if not self.output_dir:
            raise UserError("--output_dir must be given: the directory to export the model to.")


def main(argv: list[str]):
    """Run the command."""
    with without_traceback():
        config = parse(ExportConfig, argv)
        console.set_up()
        from trainer.serving import saved_model

        manifest = saved_model.export(config.train_dir, config.output_dir, config.vocabulary)
        print(f"Exported step {manifest['step']} of {config.train_dir} to {config.output_dir}.")


if __name__ == "__main__":
    main(sys.argv)
