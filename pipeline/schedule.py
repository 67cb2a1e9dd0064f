"""Run the pipeline on a schedule, on Kubeflow or Vertex AI."""

from dataclasses import dataclass

from pipeline.command_line import closest, option
from pipeline.prepare import KUBEFLOW, PackageConfig
from trainer.common.errors import UserError

ACTIONS = ("set", "list", "pause", "resume", "delete")


@dataclass(frozen=True, repr=False)
class ScheduleConfig(PackageConfig):
    """Set, list, pause, resume or delete a schedule of runs.

    Without an action, the schedule is set: created or, if it differs, replaced.
    """

    name: str = option(
        "", "Name of the schedule. Default: yt8m-nightly, of predict yt8m-predict-nightly."
    )
    cron: str = option("", "Cron expression in UTC: five fields, or six with seconds first.")
    catchup: bool = option(False, "Make up for missed runs.")
    max_concurrency: int = option(1, "Maximum number of concurrent runs, 1 to 10.")
    latest: bool = option(
        False, "Run the newest version of the pipeline at the time, not this one.", KUBEFLOW
    )
    force: bool = option(False, "Delete the schedule even if this ends a run.", KUBEFLOW)

    def __post_init__(self):
        if not self.name:
            name = "yt8m-predict-nightly" if self.pipeline == "predict" else "yt8m-nightly"
            object.__setattr__(self, "name", name)
        if not 1 <= self.max_concurrency <= 10:
            raise UserError(f"--max-concurrency must be 1 to 10; got {self.max_concurrency}.")


def schedule(config: ScheduleConfig, arguments: list[str]):
    """Set a schedule with parameters name=value, or perform the action in the first argument."""
    action = "set"
    if arguments and "=" not in arguments[0]:
        action, *arguments = arguments
    if action not in ACTIONS:
        near = closest(action, ACTIONS)
        hint = f" Did you mean {near}?" if near else ""
        raise UserError(f"The action must be one of {', '.join(ACTIONS)}.{hint}")
    if action != "set" and arguments:
        raise UserError(f"The action {action} takes no parameters; got {len(arguments)}.")
    if config.target == "vertex":
        from pipeline.vertex import schedule as backend
    else:
        from pipeline.kubeflow import schedule as backend
    if action == "set":
        backend.set_schedule(config, arguments)
    else:
        backend.change(config, action)
