"""Run the compiled pipeline on Kubeflow or Vertex AI."""

from dataclasses import dataclass

from pipeline.command_line import option
from pipeline.prepare import PackageConfig, prepare


@dataclass(frozen=True, repr=False)
class SubmitConfig(PackageConfig):
    """Run the compiled pipeline on Kubeflow or Vertex AI."""

    run_name: str = option("", "Name of the run. Default: MODEL-DATA-TIME.")
    wait: bool = option(False, "Follow the run; exit with 0 only if it succeeds.")
    timeout: float = option(24.0, "Maximum number of hours to follow the run.")


def submit(config: SubmitConfig, arguments: list[str]) -> int:
    """Submit the pipeline with parameters name=value; return the exit code."""
    compiled, values = prepare(config, arguments)
    if config.target == "vertex":
        from pipeline.vertex import submit as backend
    else:
        from pipeline.kubeflow import submit as backend
    return backend.submit(config, compiled, values)
