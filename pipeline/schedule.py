"""Runs the pipeline again and again, on Kubeflow or on Vertex AI: python -m pipeline schedule."""

import sys
from dataclasses import dataclass

from pipeline.prepare import PackageConfig, split
from trainer.common.command_line import flag, parse
from trainer.common.errors import UserError, without_traceback

ACTIONS = ("set", "list", "pause", "resume", "delete")


@dataclass(frozen=True, repr=False)
class ScheduleConfig(PackageConfig):
    """Sets a schedule of the name, with parameters name=value; or: list, pause, resume, delete."""

    name: str = flag("yt8m-nightly", "The schedule's name, of which there is one.", "The schedule")
    cron: str = flag("", "When: 5 fields, or 6 with the second first; in UTC.", "The schedule")
    latest: bool = flag(
        False,
        "Each run takes the version of the pipeline that is the newest then, not this one.",
        "The schedule",
    )
    catchup: bool = flag(False, "Make up for runs that were missed.", "The schedule")
    max_concurrency: int = flag(1, "Most runs at the same time, 1 to 10.", "The schedule")
    force: bool = flag(
        False, "delete: delete the schedule even if that ends a run in progress.", "The schedule"
    )

    def __post_init__(self):
        super().__post_init__()
        if not 1 <= self.max_concurrency <= 10:
            raise UserError(f"--max_concurrency must be 1 to 10; got {self.max_concurrency}.")


def main(argv: list[str]):
    """The command."""
    with without_traceback():
        action, rest = _action(argv[1:])
        flags, words = split([argv[0], *rest], ScheduleConfig)
        config = parse(ScheduleConfig, flags)
        if action != "set" and words:
            raise UserError(f"Parameters are for setting a schedule; got {words[0]!r}.")
        if config.target == "vertex":
            from pipeline.vertex.schedule import change, set_schedule
        else:
            from pipeline.kubeflow.schedule import change, set_schedule
        set_schedule(config, words) if action == "set" else change(config, action)


def _action(words: list[str]) -> tuple[str, list[str]]:
    """What to do with the schedule, and the words that are left."""
    if not words or words[0].startswith("-") or "=" in words[0]:
        return "set", words
    if words[0] not in ACTIONS:
        raise UserError(f"What to do is one of {', '.join(ACTIONS)}; got {words[0]!r}.")
    return words[0], words[1:]


if __name__ == "__main__":
    main(["python -m pipeline.schedule", *sys.argv[1:]])
