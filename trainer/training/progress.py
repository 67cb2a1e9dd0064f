"""Progress of training: log lines, a progress bar on a terminal, TensorBoard summaries, MLflow."""

import logging
import sys
import time
from collections.abc import Callable
from dataclasses import asdict

import rich.console
import rich.progress
import tensorflow as tf

from trainer.common.tracking import Tracker
from trainer.config import TrainConfig
from trainer.evaluation.metrics import MetricCollection, top_predictions
from trainer.run_dir.checkpoints import State
from trainer.training.step import Step

SECONDS_BETWEEN_LINES = 2


class Progress:
    """Reports the progress of training, step by step.

    A context manager, which shows the progress bar.

    Args:
        config: the flags.
        state: the state that the run starts from.
        num_videos: estimated number of videos per epoch; None if unknown.
        events_dir: folder for TensorBoard summaries.
        videos_per_step: videos that this process reads per step, for all its replicas.
    """

    def __init__(
        self,
        config: TrainConfig,
        state: State,
        num_videos: int | None,
        events_dir: str,
        videos_per_step: int | None = None,
    ):
        self.config = config
        self.videos_per_step = videos_per_step or config.batch_size
        self.num_videos = num_videos
        self.first_step = state.step
        self.summaries = tf.summary.create_file_writer(events_dir)
        self.tracker, self.params_logged = Tracker(config.train_dir), False
        self.bar = rich.progress.Progress(
            rich.progress.TextColumn("{task.description}"),
            rich.progress.BarColumn(),
            rich.progress.TaskProgressColumn(),
            rich.progress.TimeRemainingColumn(),
            console=rich.console.Console(stderr=True),
            disable=not sys.stderr.isatty() or config.log_format == "json",
            transient=True,
        )
        self.task = self.bar.add_task(
            "training", total=self._total_videos(), completed=self._done_videos(state)
        )
        self.started = self.line_time = time.monotonic()
        self.videos = self.line_videos = 0
        self.waited = 0.0
        self.timed_since, self.timed_videos = self.started, 0

    def __enter__(self):
        self.bar.start()
        return self

    def __exit__(self, *_):
        self.bar.stop()
        self.summaries.close()
        self.tracker.close()

    def is_due(self, state: State) -> bool:
        """Whether the step after `state` is reported."""
        seconds = time.monotonic() - self.line_time
        return seconds >= SECONDS_BETWEEN_LINES or state.step == self.first_step

    def add(self, state: State, step: Step, report: Callable, last: bool = False):
        """Count a step; report the first and last one, and one every SECONDS_BETWEEN_LINES.

        Args:
            state: the state after the step.
            step: the step.
            report: `Trainer.report`.
            last: whether training ends after this step.
        """
        labels = step.batch["labels"]
        if state.step > self.first_step + 1:
            self.timed_videos += len(labels)
        else:  # exclude the first step: TensorFlow builds its graph
            self.timed_since = time.monotonic()
        self.videos += len(labels)
        self.line_videos += len(labels)
        self.waited += step.wait_seconds
        self.bar.update(self.task, completed=self._done_videos(state))
        seconds = time.monotonic() - self.line_time
        if seconds < SECONDS_BETWEEN_LINES and not last and state.step > self.first_step + 1:
            return
        predictions, loss, regularization_loss = report(step.result["outputs"], labels)
        labels = labels[: predictions.shape[0]]  # of several replicas, the first's part
        numbers = {
            "loss": float(loss),
            "examples_per_sec": self.line_videos / seconds,
            **_batch_metrics(predictions, labels),
            "regularization_loss": float(regularization_loss),
            "learning_rate": float(step.result["learning_rate"]),
            "gradient_norm": float(step.result["gradient_norm"]),
            "waiting_for_input": min(self.waited / seconds, 1.0),
        }
        self._write(state, numbers, last)
        self.line_time, self.line_videos, self.waited = time.monotonic(), 0, 0.0

    def finish(self, state: State):
        """Log the end of training."""
        seconds = time.monotonic() - self.started
        logging.info(
            f"Finished training at step {state.step}: {self.videos:,} videos in {seconds:.0f} s.",
            extra={"fields": {"step": state.step, "videos": self.videos, "seconds": seconds}},
        )

    def _write(self, state: State, numbers: dict[str, float], last: bool):
        epoch = state.position.epoch + 1
        logging.info(
            f"training step {state.step} | epoch {epoch}/{self.config.num_epochs} | "
            f"Loss: {numbers['loss']:.2f} Examples/sec: {numbers['examples_per_sec']:.0f} | "
            f"Hit@1: {numbers['hit_at_1']:.2f} PERR: {numbers['perr']:.2f} "
            f"GAP: {numbers['gap']:.2f}{'' if last else self._eta(state)}",
            extra={"fields": {"step": state.step, "epoch": epoch, **numbers}},
        )
        with self.summaries.as_default(step=state.step):
            for name, number in numbers.items():
                tf.summary.scalar(f"train/{name}", number)
        self.summaries.flush()
        if not self.params_logged:
            self.tracker.log_params(asdict(self.config))
            self.params_logged = True
        metrics = {f"train/{name}": number for name, number in numbers.items()}
        self.tracker.log_metrics(metrics, state.step)

    def _eta(self, state: State) -> str:
        total, done = self._total_videos(), self._done_videos(state)
        if total is None or done >= total or not self.timed_videos:
            return ""
        seconds_per_video = (time.monotonic() - self.timed_since) / self.timed_videos
        minutes, seconds = divmod(int((total - done) * seconds_per_video), 60)
        return f" | ETA: {minutes}:{seconds:02d}"

    def _total_videos(self) -> int | None:
        """Estimate the number of videos of the whole run."""
        of_steps = self.config.max_steps and self.config.max_steps * self.videos_per_step
        of_epochs = self.num_videos and self.num_videos * self.config.num_epochs
        return min((total for total in (of_steps, of_epochs) if total), default=None)

    def _done_videos(self, state: State) -> int:
        if self.num_videos is None:
            return state.step * self.videos_per_step
        return self.num_videos * state.position.epoch + state.position.videos


def _batch_metrics(predictions: tf.Tensor, labels: tf.Tensor) -> dict[str, float]:
    """Every metric of predictions [batch, num_classes] and labels [batch, n]."""
    metrics = MetricCollection(predictions.shape[1])
    metrics.add(top_predictions(predictions, labels))
    return metrics.result()
