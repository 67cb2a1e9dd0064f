"""Command: python -m trainer.serving.server --served_dir=..."""

import logging
import sys
import time
import warnings
from dataclasses import dataclass

from trainer.common import console
from trainer.common.command_line import flag, parse
from trainer.common.errors import UserError, without_traceback

# Loggers that write three lines per request, which /metrics sums up, or details of KServe.
QUIET_LOGGERS = ("kserve", "kserve.trace", "uvicorn.access")


@dataclass(frozen=True)
class ServerConfig:
    """Serve the champion of a folder over HTTP, and switch to a new one."""

    served_dir: str = flag(
        "",
        "Folder of numbered versions, local or gs://. The highest version is served.",
        "Model",
    )
    name: str = flag("yt8m", "Name of the model in the URLs.", "Model")
    poll_seconds: float = flag(5.0, "Seconds between two looks for a new champion.", "Model")
    port: int = flag(8080, "HTTP port.", "Server")
    num_threads: int = flag(2, "Number of requests to compute at the same time.", "Server")
    log_dir: str = flag(
        "", "Folder for a sample of the inputs, local or gs://. Empty: none.", "Log of inputs"
    )
    sample_rate: float = flag(0.01, "Fraction of the videos to log, 0 to 1.", "Log of inputs")

    def __post_init__(self):
        if not self.served_dir:
            raise UserError("--served_dir must be given: the folder of the published versions.")
        if not 0 <= self.sample_rate <= 1:
            raise UserError(f"--sample_rate must be 0 to 1; got {self.sample_rate:g}.")
        if self.num_threads < 1:
            raise UserError(f"--num_threads must be at least 1; got {self.num_threads}.")


def main(argv: list[str]):
    """Run the command."""
    with without_traceback():
        config = parse(ServerConfig, argv)
        sys.argv = sys.argv[:1]  # kserve parses the command line when it is imported
        console.set_up()
        from fastapi.exceptions import FastAPIDeprecationWarning
        from kserve import ModelServer

        from trainer.serving.server.model import ServedModel

        model = ServedModel(
            config.name, config.served_dir, config.log_dir, config.sample_rate, config.num_threads
        )
        if not model.load():
            logging.warning(
                "There is no model in %s; expected folders named 1, 2, ... with a SavedModel. "
                "Waiting until one is published.",
                config.served_dir,
            )
            while not model.load():
                time.sleep(config.poll_seconds)
        model.versions.watch(config.poll_seconds)
        server = ModelServer(http_port=config.port, enable_grpc=False, enable_latency_logging=False)
        warnings.simplefilter("ignore", FastAPIDeprecationWarning)  # of KServe's code
        for name in QUIET_LOGGERS:
            logging.getLogger(name).setLevel(logging.WARNING)
        try:
            server.start([model])
        finally:
            model.stop()


if __name__ == "__main__":
    main(sys.argv)
