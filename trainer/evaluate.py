"""Command: python -m trainer.evaluate --train_dir=... --eval_data_pattern=..."""

import contextlib
import json
import sys
from dataclasses import dataclass

from trainer.common import console
from trainer.common.command_line import flag, parse
from trainer.common.errors import UserError, without_traceback
from trainer.evaluation.metrics import METRICS


@dataclass(frozen=True)
class EvaluateConfig:
    """Compute GAP, Hit@1, PERR and mAP of a model on labelled videos.

    The features come from the model, not from flags.
    """

    train_dir: str = flag(
        "/tmp/yt8m_model/", "Directory of the trained or exported model, local or gs://.", "Files"
    )
    eval_data_pattern: str | None = flag(
        None, "File glob(s) for the evaluation dataset, comma-separated.", "Files"
    )
    output_file: str = flag("", "JSON file to write the metrics to.", "Files")
    watch: bool = flag(
        False,
        "Evaluate every new checkpoint of train_dir until interrupted, and write the metrics to "
        "train_dir/eval for TensorBoard.",
        "Evaluation",
    )
    batch_size: int = flag(1024, "Examples per batch.", "Evaluation")
    num_readers: int = flag(8, "Number of input files to read in parallel.", "Evaluation")
    top_k: int = flag(
        20, "Number of predictions per video that GAP and mAP consider.", "Evaluation"
    )

    def __post_init__(self):
        if not self.eval_data_pattern:
            raise UserError("--eval_data_pattern must be given: a glob of the evaluation shards.")
        for name in ("batch_size", "num_readers", "top_k"):
            if getattr(self, name) < 1:
                raise UserError(f"--{name} must be at least 1; got {getattr(self, name)}.")


def main(argv: list[str]):
    """Run the command."""
    with without_traceback():
        config = parse(EvaluateConfig, argv)
        console.set_up()
        from trainer.evaluation import evaluator, watching

        settings = {
            "batch_size": config.batch_size,
            "top_k": config.top_k,
            "num_readers": config.num_readers,
        }
        if not config.watch:
            _report(
                evaluator.evaluate(config.train_dir, config.eval_data_pattern, **settings), config
            )
            return
        with contextlib.suppress(KeyboardInterrupt):
            for evaluation in watching.watch(
                config.train_dir, config.eval_data_pattern, **settings
            ):
                _report(evaluation, config)


def _report(evaluation, config: EvaluateConfig):
    """Print the metrics in one line, and write them to the output file."""
    from trainer.common import storage
    from trainer.common.tracking import Tracker

    values = evaluation.metrics
    titles = [f"{metric.title}: {values[name]:.3f}" for name, metric in METRICS.items()]
    print(
        f"step {evaluation.step} | {' | '.join(titles)} | Loss: {values['loss']:.6f} | "
        f"videos: {values['num_videos']} | "
        f"classes with videos: {values['num_classes_with_videos']}",
        flush=True,
    )
    with Tracker(config.train_dir) as tracker:
        tracker.log_metrics({f"eval/{name}": v for name, v in values.items()}, evaluation.step)
    if config.output_file:
        storage.write_text(config.output_file, json.dumps(values, indent=1) + "\n")


if __name__ == "__main__":
    main(sys.argv)
