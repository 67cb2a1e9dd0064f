"""Run the compiled pipeline on Kubeflow or Vertex AI."""

from dataclasses import dataclass

from pipeline.prepare import PackageConfig, prepare
from trainer.common.command_line import flag


@dataclass(frozen=True, repr=False)
class SubmitConfig(PackageConfig):
    """Run the compiled pipeline on Kubeflow or Vertex AI."""

    run_name: str = flag("", "Name of the run. Default: its model, data and time.", "Options")
    wait: bool = flag(False, "Follow the run; exit with 0 only if it succeeds.", "Options")
    timeout: float = flag(24.0, "Maximum number of hours to follow the run.", "Options")


def submit(config: SubmitConfig, arguments: list[str]) -> int:
    """Submit the pipeline with parameters name=value; return the exit code."""
    compiled, values = prepare(config, arguments)
    if config.target == "vertex":
        from pipeline.vertex import submit as backend
    else:
        from pipeline.kubeflow import submit as backend
    return backend.submit(config, compiled, values)
