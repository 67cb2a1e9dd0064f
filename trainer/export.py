"""Exports a model: python -m trainer.export --train_dir=... --output_dir=..."""

import sys
from dataclasses import dataclass

from trainer.common import console
from trainer.common.command_line import flag, parse
from trainer.common.errors import UserError, without_traceback


@dataclass(frozen=True)
class ExportConfig:
    """Exports the newest checkpoint of a train_dir as a SavedModel."""

    train_dir: str = flag("/tmp/yt8m_model/", "Where the trainer saved the model.", "Files")
    output_dir: str | None = flag(None, "Local folder to write; must not exist yet.", "Files")
    vocabulary: str = flag("", "CSV file of the class names.", "Files")

    def __post_init__(self):
        if not self.output_dir:
            raise UserError("--output_dir must be given: the folder to export the model to.")


def main(argv: list[str]):
    """Exports as the flags say."""
    with without_traceback():
        config = parse(ExportConfig, argv)
        console.set_up()
        from trainer.serving import saved_model

        manifest = saved_model.export(config.train_dir, config.output_dir, config.vocabulary)
        print(f"Exported step {manifest['step']} of {config.train_dir} to {config.output_dir}.")


if __name__ == "__main__":
    main(sys.argv)
