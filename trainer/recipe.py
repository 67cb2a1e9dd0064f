"""Command: python -m trainer.recipe --recipe=best --train_data_pattern=... --train_dir=..."""

import shlex
import sys
from dataclasses import dataclass
from pathlib import Path

from trainer.common import console, storage
from trainer.common.command_line import flag, parse
from trainer.common.errors import UserError, without_traceback
from trainer.config import TrainConfig

FOLDER = Path(__file__).parent / "recipes"


def names() -> list[str]:
    """Names of the recipes, sorted."""
    return sorted(path.stem for path in FOLDER.iterdir())


@dataclass(frozen=True)
class RecipeConfig:
    """Train a recipe of trainer/recipes, resuming from --train_dir.

    A recipe is a file of flags, NAME.flags, or a list of stages, NAME.stages. A stage is a line: a
    folder in --train_dir, a file of flags, and further flags, in which --teacher_dir may name the
    folder of an earlier stage; or, last, "average" and the folders to average into --train_dir.
    """

    recipe: str = flag("best", "Name of the recipe.", "Files")
    train_data_pattern: str = flag("", "File glob(s) for the training dataset.", "Files")
    train_dir: str = flag("", "Local directory to save the model files in.", "Files")
    seed: int = flag(0, "Random seed of the initial weights and of the order.", "Training")
    trainer_flags: str = flag("", "Further flags of all stages, separated by spaces.", "Training")

    def __post_init__(self):
        if self.recipe not in names():
            raise UserError(f"--recipe must be one of {names()}; got {self.recipe!r}.")
        for name in ("train_data_pattern", "train_dir"):
            if not getattr(self, name):
                raise UserError(f"--{name} must be given.")


def stages(name: str) -> list[list[str]]:
    """Words of each stage of a recipe; a file of flags is one stage, in --train_dir itself."""
    file = FOLDER / f"{name}.stages"
    if not file.exists():
        return [[".", f"{name}.flags"]]
    lines = file.read_text().splitlines()
    return [shlex.split(line) for line in lines if line.strip() and not line.startswith("#")]


def train_config(stage: list[str], config: RecipeConfig) -> TrainConfig:
    """The trainer's flags of a stage.

    Raises:
        UserError: a flag is unknown, or its value is out of range.
    """
    folder, flagfile, *flags = stage
    argv = [f"--flagfile={FOLDER / flagfile}", *flags, *shlex.split(config.trainer_flags)]
    prefix = "--teacher_dir="
    argv = [
        prefix + storage.join(config.train_dir, argument.removeprefix(prefix))
        if argument.startswith(prefix)
        else argument
        for argument in argv
    ]
    train_dir = config.train_dir if folder == "." else storage.join(config.train_dir, folder)
    argv += [f"--train_data_pattern={config.train_data_pattern}", f"--train_dir={train_dir}"]
    return parse(TrainConfig, ["trainer.recipe", *argv, f"--seed={config.seed}"])


def run(config: RecipeConfig):
    """Train the stages of the recipe one after the other, without those that are complete."""
    from trainer.training import ensembling, loop

    for stage in stages(config.recipe):
        if stage[0] == "average":
            folders = [storage.join(config.train_dir, folder) for folder in stage[1:]]
            ensembling.combine(folders, config.train_dir, config.train_data_pattern, config.seed)
        else:
            loop.train(train_config(stage, config))


def main(argv: list[str]):
    """Run the command."""
    with without_traceback():
        config = parse(RecipeConfig, argv)
        console.set_up()
        run(config)


if __name__ == "__main__":
    main(sys.argv)
