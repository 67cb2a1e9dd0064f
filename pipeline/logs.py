"""The log of a step: what the step itself says, and why it failed."""

import re
import signal
from collections.abc import Iterable, Iterator

# The lines of kfp's launcher, which wraps a step on a cluster.
_LAUNCHER_LINE = re.compile(r"[IWEF]\d{4} \d\d:\d\d:\d\d\.\d+ +\d+ \w+\.go:\d+\]")
# The lines of Argo's executor, which wraps the launcher.
_ARGO_LINE = re.compile(r"time=\S+ level=\w+ msg=.* argo=true( .*)?|Error: exit status \d+")
# The lines of kfp's executor, which also formats every line that a step logs.
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
    """Return why a step failed, from its output and its exit code.

    If it ended with `error: ...`, that is the text from there on; else its last line, which is the
    exception's unless a signal killed the process.

    Args:
        lines: Its output, of `without_kfp`.
        return_code: Negative, or over 128, if a signal ended it.
    """
    signal_number = -return_code if return_code < 0 else return_code - 128
    if signal_number > 0:
        name = signal.Signals(signal_number).name
        hint = "; is there too little memory?" if name == "SIGKILL" else ""
        return f"it was killed by {name}{hint}"
    errors = [index for index, line in enumerate(lines) if line.startswith("error: ")]
    if errors:
        return "\n".join(lines[errors[-1] :]).removeprefix("error: ")
    return next((line.strip() for line in reversed(lines) if line), f"exit code {return_code}")
