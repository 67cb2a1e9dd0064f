"""Decides whether a new model may be published: python -m components.gate --metrics_file=..."""

import json
import math
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, make_dataclass

from trainer.common import storage
from trainer.common.command_line import flag, parse
from trainer.common.errors import UserError, without_traceback
from trainer.evaluation.metrics import METRICS


@dataclass(frozen=True)
class Verdict:
    """Whether the new model may be published, and the reason as a sentence."""

    accepted: bool
    reason: str


@dataclass(frozen=True)
class GateFlags:
    """Flags that do not depend on the metrics."""

    metrics_file: str = flag("", "metrics.json of the evaluation.", "Files")
    output_file: str = flag("verdict.json", "File to write the verdict to.", "Files")

    metric: str = flag(
        "gap", f"Metric to compare the models by: {', '.join(METRICS)}.", "Comparison"
    )
    min_improvement: float = flag(
        0.0,
        "Minimum improvement over the published model; 0 means any improvement counts.",
        "Comparison",
    )


# min_gap, min_hit_at_1, ...
Minimums = make_dataclass(
    "Minimums",
    [
        (f"min_{name}", float, flag(0.0, f"Minimum {metric.title}, from 0 to 1.", "Minimums"))
        for name, metric in METRICS.items()
    ],
    frozen=True,
)


@dataclass(frozen=True)
class GateConfig(Minimums, GateFlags):
    """Decide whether a new model is good enough, and better than the published one.

    Raises:
        UserError: A value is out of its range.
    """

    def __post_init__(self):
        if not self.metrics_file:
            raise UserError("--metrics_file must be given: the metrics.json of an evaluation.")
        if self.metric not in METRICS:
            raise UserError(f"metric must be one of {list(METRICS)}; got {self.metric!r}.")
        for name in ("min_improvement", *(f"min_{metric}" for metric in METRICS)):
            if not 0 <= getattr(self, name) <= 1:  # false for NaN too
                raise UserError(f"{name} must be from 0 to 1; got {getattr(self, name)}.")


def main(argv: list[str]):
    """Run the command. The exit code is 0 if the model is rejected, too."""
    with without_traceback():
        config = parse(GateConfig, argv)
        verdict = decide(**asdict(config))
        print(f"{'accepted' if verdict.accepted else 'rejected'}: {verdict.reason}")


def decide(metrics_file: str, output_file: str, **settings) -> Verdict:
    """Decide whether a model may be published, and write the verdict.

    The model is accepted if it has every metric, each at its minimum or above, and if its `metric`
    is higher than that of the published model, by at least `min_improvement`.

    Args:
        metrics_file: JSON with "challenger" (metric name -> value), and "champion" and
            "champion_version", which are null if no model is published.
        output_file: JSON file to write "accepted" and "reason" to.
        settings: The other fields of `GateConfig`.

    Raises:
        UserError: A setting is out of its range, or a file cannot be read or written.
    """
    config = GateConfig(metrics_file=metrics_file, output_file=output_file, **settings)
    metrics = storage.read_json(metrics_file, "challenger", "champion", "champion_version")
    verdict = _decide(metrics, config)
    storage.write_text(output_file, json.dumps(asdict(verdict), indent=1) + "\n")
    return verdict


def _decide(metrics: dict, config: GateConfig) -> Verdict:
    challenger = metrics["challenger"]
    missing = [metric.title for name, metric in METRICS.items() if not _is_number(challenger, name)]
    if missing:
        return Verdict(False, f"The new model has no finite {', '.join(missing)}.")
    checks = [_check_improvement(metrics, config), *_check_minimums(challenger, config)]
    failures = [reason for passed, reason in checks if not passed]
    reasons = failures or [reason for _, reason in checks]
    return Verdict(not failures, "; ".join(reasons) + ".")


def _is_number(metrics: dict, name: str) -> bool:
    value = metrics.get(name)
    return isinstance(value, int | float) and math.isfinite(value)


def _check_improvement(metrics: dict, config: GateConfig) -> tuple[bool, str]:
    """Whether the new model is better than the published one, and the reason."""
    title, new = METRICS[config.metric].title, metrics["challenger"][config.metric]
    if metrics["champion"] is None:
        return True, f"{title} is {new:.4f}, and no model has been published before"
    published = f"the published model {metrics['champion_version']}"
    if not _is_number(metrics["champion"], config.metric):
        return True, f"{title} is {new:.4f}, and {published} has none"
    old = metrics["champion"][config.metric]
    if new <= old:
        return False, f"{title} {new:.4f} does not improve on {old:.4f} of {published}"
    improvement = f"{title} {new:.4f} improves on {old:.4f} of {published} by {new - old:.4g}"
    if new < old + config.min_improvement:
        return False, f"{improvement}, less than the minimum of {config.min_improvement:g}"
    return True, improvement


def _check_minimums(challenger: dict, config: GateConfig) -> Iterator[tuple[bool, str]]:
    """For each minimum that is set: whether the new model reaches it, and the reason."""
    for name, metric in METRICS.items():
        minimum, value = getattr(config, f"min_{name}"), challenger[name]
        text = f"{metric.title} {value:.4f}"
        if value < minimum:
            yield False, f"{text} is below the minimum of {minimum:g} by {minimum - value:.4g}"
        elif minimum > 0:
            yield True, f"{text} reaches the minimum of {minimum:g}"


if __name__ == "__main__":
    main(sys.argv)
