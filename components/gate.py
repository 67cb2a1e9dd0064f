"""Decides whether a new model may be published: python -m components.gate --metrics_file=..."""

import json
import math
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, make_dataclass
from statistics import NormalDist

from trainer.common import storage
from trainer.common.command_line import flag, parse
from trainer.common.errors import UserError, without_traceback
from trainer.evaluation.metrics import METRICS

FIRST_MODEL_POLICIES = ("minimums", "accept")
OUTCOMES = ("accepted", "rejected", "first", "forced")


@dataclass(frozen=True)
class Rule:
    """One rule of the gate, applied to a model.

    Attributes:
        name: identifier, e.g. "improvement", "min_gap" or "slice".
        passed: whether the model passes.
        required: what the rule requires.
        measured: what was measured.
        numbers: name -> number, of the values that the rule compares.
    """

    name: str
    passed: bool
    required: str
    measured: str
    numbers: dict


@dataclass(frozen=True)
class Verdict:
    """Whether the new model may be published, and why.

    Attributes:
        accepted: whether it may be published.
        outcome: "accepted", "rejected", "first" (accepted, and no model was published before) or
            "forced" (a rule failed, and `force_reason` overrides it).
        reason: the failed rules, or those that decided, in one sentence.
        rules: every rule with its numbers.
        force_reason: the parameter gate_force_reason.
    """

    accepted: bool
    outcome: str
    reason: str
    rules: list[Rule]
    force_reason: str


@dataclass(frozen=True)
class GateFlags:
    """Flags that do not depend on the metrics."""

    metrics_file: str = flag("", "metrics.json of the evaluation.", "Files")
    output_file: str = flag("verdict.json", "File to write the verdict to.", "Files")

    gate_metric: str = flag(
        "gap", f"Metric that has to improve: {', '.join(METRICS)}.", "Comparison"
    )
    gate_confidence: float = flag(
        0.95,
        "Confidence level of the intervals and of all comparisons with the published model.",
        "Comparison",
    )
    gate_min_improvement: float = flag(
        0.001,  # another seed alone changes the GAP of a LogisticModel by almost as much
        "Minimum improvement over the published model, which must be significant too.",
        "Comparison",
    )
    gate_metric_margin: float = flag(
        0.005,
        "No metric may be significantly worse than the published model's by more than this.",
        "Comparison",
    )
    gate_slice_margin: float = flag(
        0.01,
        "In no slice may GAP be significantly worse than the published model's by more than this.",
        "Comparison",
    )
    gate_min_support: int = flag(
        100,
        "Minimum number of evaluation videos for a comparison; slices with fewer are not compared.",
        "Comparison",
    )
    gate_first_model: str = flag(
        "minimums",
        "Policy where no model is published yet. minimums: GAP must exceed that of ranking the "
        "classes by their frequency; accept: it need not. Minimums that are set apply in any case.",
        "First model",
    )
    gate_force_reason: str = flag(
        "", "Publish the model whatever the rules say, for this reason, which is recorded.", "Force"
    )


# gate_min_gap, gate_min_hit_at_1, ...
Minimums = make_dataclass(
    "Minimums",
    [
        (f"gate_min_{name}", float, flag(0.0, f"Minimum {metric.title}, from 0 to 1.", "Minimums"))
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
        _check_choice("gate_metric", self.gate_metric, METRICS)
        _check_choice("gate_first_model", self.gate_first_model, FIRST_MODEL_POLICIES)
        margins = ("gate_min_improvement", "gate_metric_margin", "gate_slice_margin")
        for name in (*margins, *(f"gate_min_{metric}" for metric in METRICS)):
            if not 0 <= getattr(self, name) <= 1:  # false for NaN too
                raise UserError(f"{name} must be from 0 to 1; got {getattr(self, name)}.")
        if not 0.5 <= self.gate_confidence < 1:
            raise UserError(
                f"gate_confidence must be at least 0.5 and below 1; got {self.gate_confidence}."
            )
        if self.gate_min_support < 1:
            raise UserError(f"gate_min_support must be at least 1; got {self.gate_min_support}.")


def _check_choice(name: str, value: str, choices):
    if value not in choices:
        raise UserError(f"{name} must be one of {list(choices)}; got {value!r}.")


def main(argv: list[str]):
    """Run the command. The exit code is 0 if the model is rejected, too."""
    with without_traceback():
        config = parse(GateConfig, argv)
        verdict = decide(**asdict(config))
        print(f"{verdict.outcome}: {verdict.reason}")


def decide(metrics_file: str, output_file: str, **settings) -> Verdict:
    """Decide whether a model may be published, and write the verdict.

    Where a model is published, the new one is accepted if `gate_metric` is significantly higher, by
    at least `gate_min_improvement`, and no metric and no slice is significantly worse. Where none
    is published, `gate_first_model` decides. In both cases, every metric must be finite and reach
    its minimum. `gate_force_reason` overrides every rule, except that metrics must be finite.

    Args:
        metrics_file: metrics.json of `components.evaluate`.
        output_file: JSON file to write the fields of the verdict to.
        settings: The other fields of `GateConfig`.

    Raises:
        UserError: A setting is out of its range, or a file cannot be read or written.
    """
    config = GateConfig(metrics_file=metrics_file, output_file=output_file, **settings)
    metrics = storage.read_json(metrics_file, "challenger", "champion", "champion_version")
    needed = "frequency_gap" if metrics["champion"] is None else "comparison"
    if metrics.get(needed) is None:
        raise UserError(
            f"{metrics_file!r} has no {needed!r}; it is of an older version. Evaluate the model "
            "again."
        )
    verdict = _decide(metrics, config)
    storage.write_text(output_file, json.dumps(asdict(verdict), indent=1) + "\n")
    return verdict


def page(verdict: Verdict) -> str:
    """Return the verdict as Markdown, with a table of all rules."""
    lines = [f"# {verdict.outcome.capitalize()}", "", verdict.reason, ""]
    if verdict.force_reason:
        lines += [f"Parameter `gate_force_reason`: {verdict.force_reason}", ""]
    lines += ["| rule | required | measured | result |", "| --- | --- | --- | --- |"]
    lines += [
        f"| {rule.name} | {rule.required} | {rule.measured} "
        f"| {'passed' if rule.passed else '**failed**'} |"
        for rule in verdict.rules
    ]
    return "\n".join(lines) + "\n"


def _decide(metrics: dict, config: GateConfig) -> Verdict:
    challenger = metrics["challenger"]
    missing = [metric.title for name, metric in METRICS.items() if not _is_number(challenger, name)]
    if missing:
        text = f"The new model has no finite {', '.join(missing)}"
        rule = Rule("finite", False, "every metric is finite", text, {})
        return Verdict(False, "rejected", f"{text}.", [rule], config.gate_force_reason)
    first = metrics["champion"] is None
    rules = [
        *(_first_model(metrics, config) if first else _champion_rules(metrics, config)),
        *_minimums(challenger, config),
    ]
    failed = [rule for rule in rules if not rule.passed]
    outcome = "first" if first else "accepted"
    if failed:
        outcome = "forced" if config.gate_force_reason else "rejected"
    return Verdict(
        accepted=outcome != "rejected",
        outcome=outcome,
        reason=_reason(outcome, rules, failed, config),
        rules=rules,
        force_reason=config.gate_force_reason,
    )


def _reason(outcome: str, rules: list[Rule], failed: list[Rule], config: GateConfig) -> str:
    if failed:
        text = "; ".join(f"{rule.measured}; required: {rule.required}" for rule in failed)
        if outcome == "forced":
            forced = config.gate_force_reason.rstrip(".")
            return f"Forced by gate_force_reason: {forced}. Failed rules: {text}."
        return f"{text}."
    decisive = [rule for rule in rules if rule.name in ("improvement", "first model")]
    return "; ".join(rule.measured for rule in decisive or rules) + "."


def _is_number(metrics: dict, name: str) -> bool:
    value = metrics.get(name)
    return isinstance(value, int | float) and math.isfinite(value)


def _first_model(metrics: dict, config: GateConfig) -> Iterator[Rule]:
    """The rule where no model is published yet."""
    gap, baseline = metrics["challenger"]["gap"], metrics["frequency_gap"]
    text = f"GAP is {gap:.4f}, and no model has been published before"
    if config.gate_first_model == "accept":
        yield Rule("first model", True, "nothing (gate_first_model=accept)", text, {"gap": gap})
        return
    yield Rule(
        "first model",
        gap > baseline,
        f"GAP above {baseline:.4f}, which ranking the classes by their frequency reaches",
        text,
        {"gap": gap, "frequency_gap": baseline},
    )


def _champion_rules(metrics: dict, config: GateConfig) -> Iterator[Rule]:
    """The rules that compare the model with the published one."""
    yield _support(metrics, config)
    yield from _improvement(metrics, config)
    for name, metric in METRICS.items():
        comparison = metrics["comparison"].get(name)
        if name != config.gate_metric and comparison:
            margin = config.gate_metric_margin
            z = _z(config.gate_confidence)
            yield _not_worse("metric", metric.title, comparison, margin, z)
    compared = [
        row for row in metrics.get("slices", []) if row["num_videos"] >= config.gate_min_support
    ]
    # Bonferroni: many slices must not reject a model by chance.
    z = _z(1 - (1 - config.gate_confidence) / max(len(compared), 1))
    for row in compared:
        title = f"GAP in {row['slicing']}: {row['slice']} ({row['num_videos']:,} videos)"
        yield _not_worse("slice", title, row["gap"], config.gate_slice_margin, z)


def _support(metrics: dict, config: GateConfig) -> Rule:
    num_videos = metrics["challenger"].get("num_videos", 0)
    return Rule(
        "support",
        num_videos >= config.gate_min_support,
        f"at least {config.gate_min_support:,} evaluation videos",
        f"The evaluation has {num_videos:,} videos",
        {"num_videos": num_videos, "gate_min_support": config.gate_min_support},
    )


def _improvement(metrics: dict, config: GateConfig) -> Iterator[Rule]:
    """Yield the rules that `gate_metric` improves significantly, and by the minimum."""
    title, published = METRICS[config.gate_metric].title, metrics["champion_version"]
    new, old = metrics["challenger"][config.gate_metric], metrics["champion"]
    comparison = metrics["comparison"].get(config.gate_metric)
    if not _is_number(old, config.gate_metric) or not comparison:
        text = f"{title} is {new:.4f}, and cannot be compared with that of version {published}"
        yield Rule("improvement", False, f"a comparison by {title}", text, {title: new})
        return
    difference = comparison["difference"]
    value, error = difference["value"], difference["standard_error"]
    z = _z(config.gate_confidence)
    interval = _interval(value, error, z, f"{100 * config.gate_confidence:g}% CI ")
    measured = (
        f"{title} {new:.4f} vs {old[config.gate_metric]:.4f} of published version {published}: "
        f"{interval}, {_p(difference['p_value'])}"
    )
    numbers = {
        "new": new,
        "published": old[config.gate_metric],
        "difference": value,
        "standard_error": error,
        "low": value - z * error,
        "high": value + z * error,
        "p_value": difference["p_value"],
    }
    required = f"a significant improvement at {config.gate_confidence:.4g} confidence"
    yield Rule("improvement", value - z * error > 0, required, measured, numbers)
    minimum = config.gate_min_improvement
    if minimum:
        yield Rule(
            "minimum improvement",
            value >= minimum,
            f"an improvement of {minimum:g} or more",
            f"{title} differs by {value:+.4g}",
            {"difference": value, "gate_min_improvement": minimum},
        )


def _not_worse(name: str, title: str, comparison: dict, margin: float, z: float) -> Rule:
    """The rule that a metric is not significantly worse by more than a margin."""
    difference = comparison["difference"]
    value, error = difference["value"], difference["standard_error"]
    return Rule(
        name,
        value + z * error >= -margin,
        f"{title} not significantly lower by more than {margin:g}",
        f"{title} differs by {_interval(value, error, z)}",
        {
            "new": comparison["challenger"]["value"],
            "published": comparison["champion"]["value"],
            "difference": value,
            "standard_error": error,
            "low": value - z * error,
            "high": value + z * error,
            "margin": margin,
        },
    )


def _z(confidence: float) -> float:
    """Half width, in standard errors, of a two-sided interval."""
    return NormalDist().inv_cdf((1 + confidence) / 2)


def _p(p_value: float) -> str:
    return "p < 0.001" if p_value < 0.001 else f"p = {p_value:.2g}"


def _interval(value: float, error: float, z: float, label: str = "") -> str:
    return f"{value:+.4f} ({label}{value - z * error:+.4f} to {value + z * error:+.4f})"


def _minimums(challenger: dict, config: GateConfig) -> Iterator[Rule]:
    """A rule for each minimum that is set."""
    for name, metric in METRICS.items():
        minimum, value = getattr(config, f"gate_min_{name}"), challenger[name]
        if minimum > 0:
            yield Rule(
                f"min_{name}",
                value >= minimum,
                f"{metric.title} of {minimum:g} or more",
                f"{metric.title} is {value:.4f}",
                {name: value, f"gate_min_{name}": minimum},
            )


if __name__ == "__main__":
    main(sys.argv)
