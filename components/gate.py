"""Decides whether a new model may be published: python -m components.gate --metrics_file=..."""

import json
import math
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass

from components.comparison import METRICS
from trainer.common import storage
from trainer.common.command_line import flag, parse
from trainer.common.errors import UserError, without_traceback


@dataclass(frozen=True)
class Verdict:
    """Whether the new model may be published, and a sentence that says why or why not."""

    accepted: bool
    reason: str


@dataclass(frozen=True)
class GateConfig:
    """Decides whether a new model is good enough, and better than the published one.

    Raises:
        UserError: a value is out of its range.
    """

    metrics_file: str = flag("", "The metrics.json that the evaluation wrote.", "Files")
    output_file: str = flag("verdict.json", "Where to write the verdict.", "Files")

    min_gap: float = flag(0.0, "Least GAP that is accepted, 0 to 1.", "Minimums")
    min_hit_at_1: float = flag(0.0, "Least Hit@1 that is accepted, 0 to 1.", "Minimums")
    min_perr: float = flag(0.0, "Least PERR that is accepted, 0 to 1.", "Minimums")
    min_map: float = flag(0.0, "Least mAP that is accepted, 0 to 1.", "Minimums")

    metric: str = flag("gap", f"What to compare by, one of {', '.join(METRICS)}.", "Champion")
    min_improvement: float = flag(
        0.0, "By how much to beat the published model; 0: by anything above nothing.", "Champion"
    )

    def __post_init__(self):
        if not self.metrics_file:
            raise UserError("--metrics_file must be given: the metrics.json of an evaluation.")
        if self.metric not in METRICS:
            raise UserError(f"The metric must be one of {list(METRICS)}; got {self.metric!r}.")
        for name in ("min_improvement", *(f"min_{metric}" for metric in METRICS)):
            if not 0 <= getattr(self, name) <= 1:  # NaN too
                raise UserError(f"{name} must be from 0 to 1; got {getattr(self, name)}.")


def main(argv: list[str]):
    """Decides as the flags say. A model that is rejected is no error."""
    with without_traceback():
        config = parse(GateConfig, argv)
        verdict = decide(**asdict(config))
        print(f"{'accepted' if verdict.accepted else 'rejected'}: {verdict.reason}")


def decide(metrics_file: str, output_file: str, **settings) -> Verdict:
    """Judges the model whose metrics are in `metrics_file`, and writes the verdict.

    It is accepted if its metrics are all there, each reaches its minimum, and it beats the
    champion, if there is one, in `metric`: strictly, and by at least `min_improvement`.

    Args:
        metrics_file: JSON with "challenger" (metric name -> value), and "champion" and
            "champion_version", null if there is none.
        output_file: Where to write the verdict as JSON: "accepted" and "reason".
        settings: As in `GateConfig`.

    Raises:
        UserError: a setting is out of its range, or a file cannot be read or written.
    """
    config = GateConfig(metrics_file, output_file, **settings)
    metrics = storage.read_json(metrics_file, "challenger", "champion", "champion_version")
    verdict = _judge(metrics, config)
    storage.write_text(output_file, json.dumps(asdict(verdict), indent=1) + "\n")
    return verdict


def _judge(metrics: dict, config: GateConfig) -> Verdict:
    challenger = metrics["challenger"]
    missing = [label for name, label in METRICS.items() if not _is_number(challenger.get(name))]
    if missing:
        return Verdict(False, f"The new model has no {', no '.join(missing)}.")
    checks = [_compare(metrics, config), *_reach_minimums(challenger, config)]
    failed = [reason for passed, reason in checks if not passed]
    reasons = failed or [reason for _, reason in checks]
    return Verdict(not failed, "; ".join(reasons) + ".")


def _is_number(value) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _compare(metrics: dict, config: GateConfig) -> tuple[bool, str]:
    """Whether the new model beats the champion, and how that reads."""
    label, new = METRICS[config.metric], metrics["challenger"][config.metric]
    if metrics["champion"] is None:
        return True, f"{label} is {new:.4f}, and no model is published yet that it had to beat"
    champion = f"the published model {metrics['champion_version']}"
    old = metrics["champion"].get(config.metric)
    if not _is_number(old):
        return True, f"{label} is {new:.4f}, and {champion} has none"
    if new <= old:
        return False, f"{label} {new:.4f} does not beat {old:.4f} of {champion} on the same videos"
    lead = f"{label} {new:.4f} beats {old:.4f} of {champion} on the same videos by {new - old:.4g}"
    if new < old + config.min_improvement:
        return False, f"{lead}, which is less than {config.min_improvement:g}"
    return True, lead


def _reach_minimums(challenger: dict, config: GateConfig) -> Iterator[tuple[bool, str]]:
    """For each minimum that is set, whether it is reached, and how that reads."""
    for name, label in METRICS.items():
        minimum, value = getattr(config, f"min_{name}"), challenger[name]
        if value < minimum:
            lack = f"by {minimum - value:.4g}"
            yield False, f"{label} {value:.4f} is below the minimum of {minimum:g} {lack}"
        elif minimum > 0:
            yield True, f"{label} {value:.4f} reaches the minimum of {minimum:g}"


if __name__ == "__main__":
    main(sys.argv)
