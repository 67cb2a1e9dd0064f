"""Runs the compiled pipeline on Kubeflow or on Vertex AI: python -m pipeline submit."""

import sys
from dataclasses import dataclass

from pipeline.prepare import PackageConfig, prepare, split
from trainer.common.command_line import flag, parse
from trainer.common.errors import without_traceback


@dataclass(frozen=True, repr=False)
class SubmitConfig(PackageConfig):
    """Runs the compiled pipeline with parameters, each as name=value or -p name=value."""

    run_name: str = flag("", "What to call the run. Default: its model, data and time.", "The run")
    wait: bool = flag(False, "Follow the run; exit with 0 only if it succeeds.", "The run")
    timeout: float = flag(24.0, "Hours to follow it at most.", "The run")


def main(argv: list[str]):
    """The command."""
    with without_traceback():
        flags, words = split(argv, SubmitConfig)
        config = parse(SubmitConfig, flags)
        compiled, values = prepare(config, words)
        if config.target == "vertex":
            from pipeline.vertex.submit import submit
        else:
            from pipeline.kubeflow.submit import submit
        sys.exit(submit(config, compiled, values))


if __name__ == "__main__":
    main(["python -m pipeline.submit", *sys.argv[1:]])
