"""The command line: python -m pipeline COMMAND ..."""

import difflib
import importlib
import os
import sys

COMMANDS = {
    "compile": "write the pipeline's YAML, for Kubeflow and for Vertex AI",
    "run": "run the whole pipeline on this machine",
    "images": "build the images that the steps run in",
    "push": "send them to a registry",
    "submit": "run it on a Kubeflow cluster, or on Vertex AI",
    "schedule": "run it there again and again; pause, resume, list or delete a schedule",
    "doctor": "find what would break a run there, before it starts",
}

USAGE = "usage: python -m pipeline COMMAND [...]\n\n{}\n\nCOMMAND --help says more.".format(
    "\n".join(f"  {name:<9} {meaning}" for name, meaning in COMMANDS.items())
)


def main(argv: list[str]):
    """Hands over to the command's module, which is loaded alone: another may load slowly."""
    command, *rest = argv[1:] or ["--help"]
    if command in ("--help", "-help", "-h"):
        print(USAGE)
        return
    if command not in COMMANDS:
        near = difflib.get_close_matches(command, COMMANDS, n=1)
        hint = f" Did you mean {near[0]}?" if near else ""
        sys.exit(f"error: There is no command {command!r}.{hint}\n\n{USAGE}")
    importlib.import_module(f"pipeline.{command}").main([f"python -m pipeline {command}", *rest])


def run(argv: list[str]):
    """Runs `main`, and ends quietly if the reader of its output (`head`, say) has closed it."""
    try:
        try:
            main(argv)
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        # Python flushes stdout once more when it exits.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)  # as a shell reports SIGPIPE


if __name__ == "__main__":
    run(sys.argv)
