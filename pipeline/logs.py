"""A step's log: its own lines without kfp's, and the reason of a failure."""

import re
import signal
from collections.abc import Iterable, Iterator

# Lines of kfp's launcher, which wraps a step on a cluster.
_LAUNCHER_LINE = re.compile(r"[IWEF]\d{4} \d\d:\d\d:\d\d\.\d+ +\d+ \w+\.go:\d+\]")
# Lines of Argo's executor, which wraps the launcher.
_ARGO_LINE = re.compile(r"time=\S+ level=\w+ msg=.* argo=true( .*)?|Error: exit status \d+")
# Lines of kfp's executor, which also reformats the lines that a step logs.
_KFP_LINE = re.compile(r"\[KFP Executor [-0-9]+ [0-9:,]+ (?P<level>[A-Z]+)\]: (?P<text>.*)")
_KFP_TEXTS = (
    "Looking for component ",
    "Loading KFP component ",
    "Got executor_input:",
    "Wrote executor output file ",
    "Did not write output file.",
)


def without_kfp(lines: Iterable[str]) -> Iterator[str]:
    """Yield the lines of a step's output, without kfp's own lines and line prefixes."""
    in_input = False  # an indented JSON object, which ends with a closing brace alone
    for line in lines:
        line = line.rstrip()
        if _LAUNCHER_LINE.match(line) or _ARGO_LINE.fullmatch(line):
            continue
        if in_input:
            in_input = line != "}"
        elif logged := _KFP_LINE.fullmatch(line):
            if logged["text"].startswith(_KFP_TEXTS):
                in_input = logged["text"] == "Got executor_input:"
            else:
                level = "" if logged["level"] == "INFO" else f"{logged['level']}: "
                yield level + logged["text"]
        else:
            yield line


def reason(lines: list[str], return_code: int) -> str:
    """Return why a step failed.

    That is the text after the last `error: `, or else the last line, which is the exception's
    message unless a signal killed the process.

    Args:
        lines: Output of the step, from `without_kfp`.
        return_code: Exit code; negative, or over 128, if a signal killed the process.
    """
    signal_number = -return_code if return_code < 0 else return_code - 128
    if signal_number > 0:
        name = signal.Signals(signal_number).name
        hint = "; it may have run out of memory" if name == "SIGKILL" else ""
        return f"it was killed by {name}{hint}"
    errors = [index for index, line in enumerate(lines) if line.startswith("error: ")]
    if errors:
        return "\n".join(lines[errors[-1] :]).removeprefix("error: ")
    return next((line.strip() for line in reversed(lines) if line), f"exit code {return_code}")
