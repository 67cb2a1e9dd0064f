"""The training loop.

Keras' `Model.fit` is not used: a run resumes bit for bit in the middle of an epoch, which needs the
position in the data in every checkpoint, and workers with unequal numbers of videos finish an epoch
together.
"""

import contextlib
import hashlib
import json
import logging
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import islice

import numpy as np
import tensorflow as tf

from trainer.common import storage
from trainer.common.errors import UserError
from trainer.config import TrainConfig
from trainer.data import examples, input_pipeline, manifest, tfrecord
from trainer.data.input_pipeline import HeldOut, Position
from trainer.models import registry as models
from trainer.run_dir import checkpoints
from trainer.run_dir.checkpoints import State
from trainer.run_dir.working_dir import EVENTS
from trainer.training import calibration, closed_form, distillation, distribution, saving
from trainer.training.distillation import Teacher
from trainer.training.progress import Progress
from trainer.training.signals import Signals
from trainer.training.step import Step, Trainer

# Exceptions from a step if another machine stops responding.
LOST_WORKER = (tf.errors.UnavailableError, tf.errors.AbortedError, tf.errors.CancelledError)


class WorkersMustRestart(UserError):
    """All workers must be restarted; they resume from the newest checkpoint."""


class Terminated(SystemExit):
    """Ends the process with the exit code of a process that was ended by a signal."""

    def __init__(self, signal_number: int):
        super().__init__(128 + signal_number)


def train(config: TrainConfig, strategy: tf.distribute.Strategy | None = None) -> int:
    """Train until --num_epochs or --max_steps, from the newest checkpoint in --train_dir, if any.

    Args:
        config: the flags.
        strategy: the devices to train on; by default those of --num_gpu and TF_CONFIG.

    Returns:
        The number of steps done since the model was created.

    Raises:
        UserError: a flag, a file or a record is invalid, the loss is not finite, or another trainer
            uses --train_dir.
        WorkersMustRestart: another worker was lost, or the workers start at different steps.
        Terminated: the process received SIGTERM or SIGINT; its last step is in a checkpoint.
    """
    # Files and devices.
    all_files = _training_files(config)
    tf.debugging.set_log_device_placement(config.log_device_placement)
    trainer = Trainer(config, strategy or distribution.strategy_for(config))
    worker, num_workers = distribution.worker(trainer.strategy)
    files, is_chief = _worker_files(all_files, worker, num_workers), worker == 0

    with contextlib.ExitStack() as stack:
        # Entered first: a signal must not interrupt the upload of the last checkpoint either.
        signals = stack.enter_context(Signals())
        folder = stack.enter_context(saving.open_train_dir(config, is_chief, num_workers))
        stack.enter_context(input_pipeline.explained())

        # Model and checkpoint.
        order = _video_order(config, all_files, num_workers)
        start = state = saving.restore_or_create(config, trainer, folder.local, order, is_chief)
        if num_workers > 1 and not trainer.started_together():
            raise WorkersMustRestart("The workers start at different steps. Restart all of them.")
        if saving.reached_max_steps(config, state):
            logging.info("Nothing to train: --max_steps=%d was reached already.", config.max_steps)
            return state.step
        if models.MODELS[config.model].closed_form:
            return _fit_closed_form(config, trainer, all_files, folder, state, is_chief)
        if state.step == 0 and hasattr(trainer.model, "initialize"):
            trainer.model.initialize(_first_features(config, all_files))

        # Input, checkpoints and progress.
        videos_per_step = config.batch_size * distribution.num_local(trainer.strategy)
        skipped = _SkippedRecords()
        dataset = _dataset(config, files, videos_per_step, state, skipped)
        batches = _Batches(dataset, config, state.position.epoch, num_workers)
        saver = saving.Saver(config, trainer, folder, state, is_chief)
        num_videos, events = _estimate_num_videos(config, files), f"{folder.local}/{EVENTS}"
        progress = stack.enter_context(Progress(config, state, num_videos, events, videos_per_step))

        # Training loop. A result is read one step late, but at once if something depends on it.
        steps = _one_step_late(
            _start_steps(config, trainer, batches, signals),
            lambda: (
                num_workers > 1
                or signals.received
                or state.step + 1 == config.max_steps
                or progress.is_due(state)
                or saver.is_due(state.step + 1)
            ),
        )
        with _restart_if_worker_lost(num_workers, saver, lambda: state), batches:
            for step, is_newest in steps:
                if num_workers > 1:
                    signals.received |= bool(step.result["stop"])
                    if not step.result["videos"]:  # all workers have read the epoch
                        batches.finish_epoch()
                        state = replace(state, position=Position(step.epoch + 1))
                        continue
                if not step.result["finite"]:
                    _handle_non_finite(config, state, step.batch, files, num_workers, saver)
                state = _advance(state, step, videos_per_step)
                saver.check_folder()
                is_last = state.step == config.max_steps or signals.received
                if is_chief:
                    progress.add(state, step, trainer.report, is_last or batches.ended)
                if is_newest and not (is_last and config.calibration_fraction):
                    saver.save_if_due(state)
                if is_newest and is_last:
                    break
            else:
                state = replace(state, position=Position(config.num_epochs))

        # Recalibration and last checkpoint.
        saver.check_folder()
        if is_chief and (not signals.received or saving.reached_max_steps(config, state)):
            _recalibrate(config, trainer, all_files, saver, state)
        saver.save(state)
        skipped.log_total()
        _report_end(config, files, start, state, signals)
        if is_chief and state.step > start.step:
            progress.finish(state)
    return state.step


def _training_files(config: TrainConfig) -> list[str]:
    if not config.train_data_pattern:
        raise UserError("--train_data_pattern must be given: a glob of the training shards.")
    if not config.train_dir:
        raise UserError("--train_dir must be given: the directory to save the model files in.")
    return manifest.expand(config.train_data_pattern)


def _worker_files(files: list[str], worker: int, num_workers: int) -> list[str]:
    """Return every num_workers-th file, so that no two workers read the same video."""
    if len(files) < num_workers:
        raise UserError(
            f"Expected at least as many training files as workers; got {len(files)} files and "
            f"{num_workers} workers."
        )
    return files[worker::num_workers]


def _video_order(config: TrainConfig, files: list[str], num_workers: int) -> str:
    """Return an identifier of the order in which the input pipeline reads the videos."""
    settings = json.dumps([files, num_workers, config.num_readers, config.seed])
    return hashlib.sha256(settings.encode()).hexdigest()[:16]


def _dataset(
    config: TrainConfig, files: list[str], videos_per_step: int, state: State, on_bad_record
) -> tf.data.Dataset:
    """Return the (batch, epoch) pairs from the position of `state` on."""
    return input_pipeline.training_batches(
        files,
        config.record_format,
        videos_per_step,
        config.num_epochs,
        config.num_readers,
        config.seed,
        state.position,
        on_bad_record if config.skip_bad_records else None,
        _count_records(config, state, files),
        _held_out(config),
    )


def _count_records(config: TrainConfig, state: State, files: list[str]) -> list[int] | None:
    """Number of records of each file, for a run that resumes within an epoch.

    None if that is unknown: without a manifest, counting the records of a remote file means reading
    it.
    """
    if not state.position.videos or config.skip_bad_records or config.calibration_fraction:
        return None
    if manifest.is_manifest(config.train_data_pattern):
        return _counts_of_manifest(config, files)
    if any(map(storage.is_remote, files)):
        return None
    return [tfrecord.num_records(file) for file in files]


def _estimate_num_videos(config: TrainConfig, files: list[str]) -> int | None:
    """Return the number of videos; without a manifest, estimate it by the size of some records."""
    if manifest.is_manifest(config.train_data_pattern):
        return sum(_counts_of_manifest(config, files))
    records = islice(examples.good_records(files[0], config.record_format, lambda _: None), 100)
    sizes = [len(tfrecord.frame(record)) for _, record in records]
    total = sum(status.size for status in storage.statuses(files).values())
    return round(total / np.mean(sizes)) if sizes else None


def _counts_of_manifest(config: TrainConfig, files: list[str]) -> list[int]:
    counts = {f.path: f.num_records for f in manifest.read(config.train_data_pattern).files}
    return [counts[file] for file in files]


def _held_out(config: TrainConfig) -> HeldOut | None:
    """Return the videos that are held out for recalibration; None if there are none."""
    if not config.calibration_fraction:
        return None
    return HeldOut(config.calibration_fraction, config.seed)


def _first_features(config: TrainConfig, files: list[str], num_videos: int = 8192) -> np.ndarray:
    """Return the features of the first training videos, [videos, width] float32."""
    batches = input_pipeline.batches(files, config.record_format, 1024)
    first = [batch["features"].numpy() for batch in batches.take(num_videos // 1024)]
    return np.concatenate(first or [np.zeros([1, config.record_format.width], np.float32)])


def _fit_closed_form(
    config: TrainConfig, trainer: Trainer, files: list[str], folder, state: State, is_chief: bool
) -> int:
    """Fit a model that has a closed-form solution, as one step of all epochs, and save it."""
    if state.step:
        logging.info("Nothing to train: the model was fitted already.")
    if state.step or not is_chief:
        return 1
    held_out = _held_out(config)
    ids, predictions = closed_form.fit(config, trainer.model, files, held_out)
    trainer.steps.assign(1)
    if held_out:
        calibration.fit(config, trainer.model, files, 1)
    distillation.save(folder.local, ids, trainer.model, predictions)
    state = replace(state, step=1, position=Position(config.num_epochs))
    checkpoints.save(folder.local, trainer.variables, state, config.keep_checkpoints)
    folder.changed()
    return state.step


def _start_steps(
    config: TrainConfig, trainer: Trainer, batches: "_Batches", signals: Signals
) -> Iterator[Step]:
    """Start a step on each batch."""
    teacher = Teacher(config.teacher_dir) if config.teacher_dir else None
    for number, (batch, epoch, wait_seconds) in enumerate(batches):
        if number == 0:
            _warn_if_unlabelled(batch)
        if teacher:
            batch |= teacher.targets(batch)
        yield Step(batch, epoch, wait_seconds, trainer.step(batch, signals.received, epoch))


def _one_step_late(
    steps: Iterator[Step], is_needed: Callable[[], bool]
) -> Iterator[tuple[Step, bool]]:
    """Yield each step after the next one was started, so that no device waits for Python.

    Args:
        steps: an iterator that starts a step and returns it.
        is_needed: whether the newest step must be yielded before another one is started.

    Yields:
        The step, and whether `is_needed` was true of it: the variables are those after this step.
    """
    unread = None
    for step in steps:
        if unread:
            yield unread, False
        unread = step
        if is_needed():
            unread = None
            yield step, True
    if unread:
        yield unread, False


def _advance(state: State, step: Step, videos: int) -> State:
    """Return the state after `step`, in which no worker read more than `videos`."""
    done = state.position.videos if step.epoch == state.position.epoch else 0
    position = Position(step.epoch, done + videos)
    return replace(state, step=state.step + bool(step.result["finite"]), position=position)


@contextlib.contextmanager
def _restart_if_worker_lost(num_workers: int, saver: saving.Saver, state: Callable[[], State]):
    """Save `state()` and raise WorkersMustRestart if another worker stops responding."""
    try:
        yield
    except LOST_WORKER as error:
        if num_workers == 1:
            raise
        saver.save(state())
        raise WorkersMustRestart(
            f"Lost another worker after step {state().step}. Restart all workers; they resume "
            "from the newest checkpoint."
        ) from error


def _recalibrate(
    config: TrainConfig, trainer: Trainer, files: list[str], saver: saving.Saver, state: State
):
    """Fit the recalibration to the weights of the last step, unless that was done."""
    if config.calibration_fraction and trainer.model.recalibration.fitted_step != state.step:
        with trainer.averaged() as model:
            calibration.fit(config, model, files, state.step)
        saver.save(state, again=True)


def _report_end(
    config: TrainConfig, files: list[str], start: State, state: State, signals: Signals
):
    """Report the end of training; raise an error if it was stopped or had no videos."""
    if signals.received:
        logging.warning(
            "Received %s: stopped after step %d. Run the same command again to resume.",
            signals.number.name,
            state.step,
        )
        raise Terminated(signals.number)
    if state.step == 0:
        raise UserError(f"The training files contain no videos: {files[0]} ...")
    if state.step == start.step:
        logging.info(
            "Nothing to train: all %d epochs were completed already, in %d steps.",
            config.num_epochs,
            state.step,
        )


class _Batches:
    """Batches of this worker from its first to its last epoch.

    All workers go through an epoch together: a worker that has read its files continues with empty
    batches until all workers have, and `finish_epoch` is called.

    A context manager, at whose end reading stops: that must be before Python's end, because its
    threads call Python.

    Args:
        dataset: (batch, epoch) pairs.
        config: the flags.
        first_epoch: epoch of the first batches.
        num_workers: number of workers.

    Attributes:
        ended: whether all batches were returned.
    """

    def __init__(
        self, dataset: tf.data.Dataset, config: TrainConfig, first_epoch: int, num_workers: int
    ):
        self._iterator = iter(dataset)
        self._next = None
        self._epochs = range(first_epoch, config.num_epochs)
        self._record_format = config.record_format
        self._num_workers = num_workers
        self.ended = False

    def __enter__(self):
        return self

    def __exit__(self, error_type, error, error_traceback):
        self._iterator = self._next = None
        traceback.clear_frames(error_traceback)  # of an error in reading: they hold the iterator

    def __iter__(self) -> Iterator[tuple[dict, int, float]]:
        """Yield each batch with its epoch and the seconds spent waiting for it."""
        started = time.monotonic()
        for epoch in self._epochs:
            self._epoch_finished = self._num_workers == 1
            while (batch := self._read(epoch)) is not None:
                yield batch, epoch, time.monotonic() - started
                started = time.monotonic()
            while not self._epoch_finished:
                yield input_pipeline.empty_batch(self._record_format), epoch, 0.0
        self.ended = True

    def _read(self, epoch: int) -> dict | None:
        """Return the next batch if it belongs to `epoch`; else None, and keep it."""
        if self._next is None:
            self._next = next(self._iterator, (None, None))
        batch, batch_epoch = self._next
        if batch is None or batch_epoch != epoch:
            return None
        self._next = None
        return batch

    def finish_epoch(self):
        """Continue with the next epoch."""
        self._epoch_finished = True


def _warn_if_unlabelled(batch: dict[str, tf.Tensor]):
    """Warn if no video in a batch has labels, as in the unlabelled test split."""
    if len(batch["labels"]) and not tf.reduce_any(batch["labels"] >= 0):
        logging.warning(
            "No video in the first batch has labels. Does --train_data_pattern match the "
            "unlabelled test split?"
        )


def _handle_non_finite(
    config: TrainConfig,
    state: State,
    batch: dict[str, tf.Tensor],
    files: list[str],
    num_workers: int,
    saver: saving.Saver,
):
    """Warn about a batch with a NaN or infinite loss or gradient, or raise an error.

    Args:
        state: before the step, which did not change the variables.
    """
    saver.check_finite(state)
    ids = b" ".join(batch["id"].numpy()[:5]).decode(errors="backslashreplace")
    message = (
        f"The loss or its gradient is NaN or infinite at step {state.step + 1}, epoch "
        f"{state.position.epoch + 1}, in the batch with the videos {ids} ... of "
        f"{config.train_data_pattern}."
    )
    if config.skip_bad_batches:
        logging.warning("%s Skipped this batch.", message)
        return
    saver.save(state)
    raise UserError(
        f"{message} {_non_finite_cause(config, batch, files, num_workers)} The weights from before "
        "this step are in a checkpoint. To skip such batches, set --skip_bad_batches."
    )


def _non_finite_cause(
    config: TrainConfig, batch: dict[str, tf.Tensor], files: list[str], num_workers: int
) -> str:
    if not config.frame_features:  # quantized frames are always finite
        rows = np.isfinite(batch["features"]).all(axis=1)
        if not rows.all():
            location = input_pipeline.locate(batch["location"][int(np.argmin(rows))], files)
            return f"{location}: its features must be finite, but are not."
    others = ", if those of the other workers are, too" if num_workers > 1 else ""
    return (
        f"Its features are finite, so --base_learning_rate ({config.base_learning_rate}) is "
        f"likely too high{others}."
    )


class _SkippedRecords:
    """Logs and counts records that cannot be read. The reader threads call it with the reason."""

    def __init__(self):
        self._reasons: set[str] = set()
        self._lock = threading.Lock()

    def __call__(self, reason: str):
        with self._lock:
            is_new = reason not in self._reasons  # not one of an earlier epoch
            self._reasons.add(reason)
        if is_new:
            logging.warning("Skipped record: %s", reason)

    def log_total(self):
        """Log the number of records that were skipped."""
        count = len(self._reasons)
        if count:
            logging.warning(
                "Skipped %d bad record%s in total.",
                count,
                "" if count == 1 else "s",
                extra={"fields": {"bad_records": count}},
            )
