"""The training loop.

Keras' `Model.fit` is not used: a run resumes bit for bit in the middle of an epoch, which needs the
position in the data in every checkpoint, and workers with unequal numbers of videos finish an epoch
together.
"""

import contextlib
import hashlib
import json
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from itertools import islice

import numpy as np
import tensorflow as tf

from trainer.common import storage
from trainer.common.errors import UserError
from trainer.config import TrainConfig
from trainer.data import examples, input_pipeline, manifest, tfrecord
from trainer.data.input_pipeline import HeldOut, Position
from trainer.models import registry as models
from trainer.run_dir import checkpoints, working_dir
from trainer.run_dir.checkpoints import State
from trainer.serving import saved_model
from trainer.training import calibration, closed_form, distillation, distribution
from trainer.training.distillation import Teacher
from trainer.training.progress import Progress
from trainer.training.step import Trainer

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
    files = _training_files(config)
    tf.debugging.set_log_device_placement(config.log_device_placement)
    trainer = Trainer(config, strategy or distribution.strategy_for(config))
    worker, num_workers = distribution.worker(trainer.strategy)
    is_chief = worker == 0
    order = _video_order(config, files, num_workers)
    all_files = files
    files = _worker_files(files, worker, num_workers)

    with contextlib.ExitStack() as stack:
        # Entered first: a signal must not interrupt the upload of the last checkpoint either.
        signals = stack.enter_context(_Signals())
        folder = stack.enter_context(_open_train_dir(config, is_chief, num_workers))

        # Model and checkpoint.
        start = state = _restore_or_create(config, trainer, folder.local, order, is_chief)
        if num_workers > 1 and not trainer.started_together():
            raise WorkersMustRestart("The workers start at different steps. Restart all of them.")
        if _reached_max_steps(config, state):
            logging.info("Nothing to train: --max_steps=%d was reached already.", config.max_steps)
            return state.step

        if models.MODELS[config.model].closed_form:
            _fit_closed_form(config, trainer, all_files, folder, state, is_chief)
            return 1
        if state.step == 0 and hasattr(trainer.model, "initialize"):
            with input_pipeline.explained(all_files, config.record_format):
                trainer.model.initialize(_first_features(config, all_files))
        teacher = Teacher(config.teacher_dir) if config.teacher_dir else None

        # Input, checkpoints and progress.
        stack.enter_context(input_pipeline.explained(files, config.record_format))
        progress = stack.enter_context(_open_progress(config, state, files, folder.local))
        saver = _Saver(config, trainer, folder, state, is_chief)
        skipped = _SkippedRecords()
        videos_per_step = config.batch_size * distribution.num_local(trainer.strategy)
        dataset = input_pipeline.training_batches(
            files,
            config.record_format,
            videos_per_step,
            config.num_epochs,
            config.num_readers,
            config.seed,
            state.position,
            skipped if config.skip_bad_records else None,
            held_out=_held_out(config),
        )
        batches = _Batches(dataset, config, state.position.epoch, num_workers)
        del dataset

        # Training loop.
        try:
            # Reading must end before Python does: its threads may call Python.
            with contextlib.closing(batches):
                for batch, epoch, wait_seconds in batches:
                    if state.step == start.step:
                        _warn_if_unlabelled(batch)
                    if teacher:
                        batch |= teacher.targets(batch)
                    result = trainer.step(batch, signals.received, epoch)
                    if not result["videos"]:  # all workers have read the epoch
                        batches.finish_epoch()
                        state = replace(state, position=Position(epoch + 1))
                        continue
                    if not result["finite"]:
                        _handle_non_finite(config, state, batch, files, num_workers, saver)
                    state = _advance(state, epoch, videos_per_step, bool(result["finite"]))
                    folder.check()
                    signals.received |= bool(result["stop"])
                    last = state.step == config.max_steps or signals.received
                    if is_chief:
                        labels = batch["labels"]
                        progress.add(state, result, labels, trainer.report, wait_seconds, last)
                    if not (last and config.calibration_fraction):  # saved once it is recalibrated
                        saver.save_if_due(state)
                    if last:
                        break
                else:
                    state = replace(state, position=Position(config.num_epochs))
        except LOST_WORKER as error:
            if num_workers == 1:
                raise
            saver.save(state)
            raise WorkersMustRestart(
                f"Lost another worker after step {state.step}. Restart all workers; they resume "
                "from the newest checkpoint."
            ) from error

        # Recalibration and last checkpoint.
        complete = not signals.received or _reached_max_steps(config, state)
        recalibrate = config.calibration_fraction and is_chief and complete
        if recalibrate and trainer.model.recalibration.fitted_step != state.step:
            with trainer.averaged() as model:
                calibration.fit(config, model, all_files, state.step)
            saver.save(state, again=True)
        saver.save(state)
        skipped.log_total()
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
        elif is_chief:
            progress.finish(state)
    return state.step


def _training_files(config: TrainConfig) -> list[str]:
    if not config.train_data_pattern:
        raise UserError("--train_data_pattern must be given: a glob of the training shards.")
    if not config.train_dir:
        raise UserError("--train_dir must be given: the directory to save the model files in.")
    return manifest.expand(config.train_data_pattern)


def _video_order(config: TrainConfig, files: list[str], num_workers: int) -> str:
    """Return an identifier of the order in which the input pipeline reads the videos."""
    settings = json.dumps([files, num_workers, config.num_readers, config.seed])
    return hashlib.sha256(settings.encode()).hexdigest()[:16]


def _fit_closed_form(
    config: TrainConfig, trainer: Trainer, files: list[str], folder, state: State, is_chief: bool
):
    """Fit a model that has a closed-form solution, as one step of all epochs, and save it."""
    if state.step:
        logging.info("Nothing to train: the model was fitted already.")
        return
    if not is_chief:
        return
    with input_pipeline.explained(files, config.record_format):
        held_out = _held_out(config)
        ids, predictions = closed_form.fit(config, trainer.model, files, held_out)
        trainer.steps.assign(1)
        if held_out:
            calibration.fit(config, trainer.model, files, 1)
    distillation.save(folder.local, ids, trainer.model, predictions)
    state = replace(state, step=1, position=Position(config.num_epochs))
    checkpoints.save(folder.local, trainer.variables, state, config.keep_checkpoints)
    folder.changed()


def _first_features(config: TrainConfig, files: list[str], num_videos: int = 8192) -> np.ndarray:
    """Return the features of the first training videos, [videos, width] float32."""
    batches = input_pipeline.batches(files, config.record_format, 1024)
    first = [batch["features"].numpy() for batch in batches.take(num_videos // 1024)]
    return np.concatenate(first or [np.zeros([1, config.record_format.width], np.float32)])


def _held_out(config: TrainConfig) -> HeldOut | None:
    """Return the videos that are held out for recalibration; None if there are none."""
    if not config.calibration_fraction:
        return None
    return HeldOut(config.calibration_fraction, config.seed)


def _worker_files(files: list[str], worker: int, num_workers: int) -> list[str]:
    """Return every num_workers-th file, so that no two workers read the same video."""
    if len(files) < num_workers:
        raise UserError(
            f"Expected at least as many training files as workers; got {len(files)} files and "
            f"{num_workers} workers."
        )
    return files[worker::num_workers]


def _open_train_dir(config: TrainConfig, is_chief: bool, num_workers: int):
    """Lock --train_dir on the chief, which alone writes to it; the other workers only read it."""
    if not is_chief:
        return working_dir.open_read_only(config.train_dir)
    return working_dir.open_exclusive(
        config.train_dir, config.keep_checkpoints, config.start_new_model, num_workers == 1
    )


def _restore_or_create(
    config: TrainConfig, trainer: Trainer, train_dir: str, order: str, is_chief: bool
) -> State:
    """Restore the newest checkpoint into `trainer`; if there is none, keep its initial weights.

    Returns:
        The state to start from.
    """
    flags = asdict(config)
    if is_chief:
        if config.start_new_model:
            checkpoints.remove_all(train_dir)
        checkpoints.remove_leftovers(train_dir)
        checkpoints.keep_model_flags(train_dir, config.model_flags)
    state = None
    if is_chief or not config.start_new_model:
        state = checkpoints.restore(train_dir, trainer.variables)
    if state is None:
        num_weights = sum(int(np.prod(weight.shape)) for weight in trainer.weights)
        logging.info(
            "Created a new %s with %s weights in %s.",
            config.model,
            f"{num_weights:,}",
            config.train_dir,
        )
        return State(0, Position(), order, flags)
    if is_chief:  # a trainer may have been killed before it removed them
        checkpoints.remove_old(train_dir, state.step, config.keep_checkpoints)
    _log_resumption(config, state, flags)
    position = state.position
    if state.order != order and position.videos:
        logging.warning(
            "The training files, --num_readers or --seed changed, and with them the order of the "
            "videos: restarting epoch %d from its beginning.",
            position.epoch + 1,
        )
        position = Position(position.epoch, 0)
    return State(state.step, position, order, flags)


def _log_resumption(config: TrainConfig, state: State, flags: dict):
    if not _reached_max_steps(config, state) and state.position.epoch < config.num_epochs:
        logging.info("Resuming at step %d, epoch %d.", state.step, state.position.epoch + 1)
    for name, value in flags.items():
        if state.flags.get(name, value) != value and name != "start_new_model":
            logging.info("--%s changed from %s to %s.", name, state.flags[name], value)


def _reached_max_steps(config: TrainConfig, state: State) -> bool:
    return bool(config.max_steps) and state.step >= config.max_steps


def _open_progress(config: TrainConfig, state: State, files: list[str], train_dir: str) -> Progress:
    num_videos = _estimate_num_videos(config, files)
    return Progress(config, state, num_videos, os.path.join(train_dir, "events"))


def _estimate_num_videos(config: TrainConfig, files: list[str]) -> int | None:
    """Estimate the number of videos by the size of the first records; None for remote files."""
    if any(file.startswith("gs://") for file in files):
        return None
    records = islice(examples.good_records(files[0], config.record_format, lambda _: None), 100)
    sizes = [len(tfrecord.frame(record)) for record in records]
    total = sum(storage.size(file) for file in files)
    return round(total / np.mean(sizes)) if sizes else None


def _advance(state: State, epoch: int, videos: int, updated: bool) -> State:
    """Return the state after a step in `epoch`, in which no worker read more than `videos`."""
    done = state.position.videos if epoch == state.position.epoch else 0
    return replace(state, step=state.step + updated, position=Position(epoch, done + videos))


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
    saver: "_Saver",
):
    """Warn about a batch with a loss or gradient of NaN or infinity; fail unless it is skipped.

    Args:
        state: before the step, which did not change the variables.
    """
    ids = b" ".join(batch["id"].numpy()[:5]).decode()
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
    # Searching the files for the record takes long, so do it only if there is one.
    if all(np.isfinite(values).all() for values in tf.nest.flatten(batch["features"])):
        others = ", if those of the other workers are, too" if num_workers > 1 else ""
        return (
            f"Its features are finite, so --base_learning_rate ({config.base_learning_rate}) is "
            f"likely too high{others}."
        )
    return str(examples.first_error(files, config.record_format))


class _Batches:
    """Batches of this worker from its first to its last epoch.

    All workers go through an epoch together: a worker that has read its files continues with empty
    batches until all workers have, and `finish_epoch` is called.

    Args:
        dataset: (batch, epoch) pairs.
        config: the flags.
        first_epoch: epoch of the first batches.
        num_workers: number of workers.
    """

    def __init__(
        self, dataset: tf.data.Dataset, config: TrainConfig, first_epoch: int, num_workers: int
    ):
        self._iterator = iter(dataset)
        self._next = None
        self._epochs = range(first_epoch, config.num_epochs)
        self._record_format = config.record_format
        self._num_workers = num_workers

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

    def close(self):
        """Stop reading."""
        self._iterator = self._next = None


class _Saver:
    """Writes checkpoints and exports the model periodically, on the chief.

    Args:
        config: the flags.
        trainer: the variables to save.
        folder: the folder to save in.
        state: the state that the run starts from.
        is_chief: whether this worker writes.
    """

    def __init__(self, config: TrainConfig, trainer: Trainer, folder, state: State, is_chief: bool):
        self._config = config
        self._trainer = trainer
        self._folder = folder
        self._is_chief = is_chief
        self._saved_step = state.step
        self._saved_at = time.monotonic()

    def save_if_due(self, state: State):
        """Save after --export_model_steps, which export the model too, or --checkpoint_minutes."""
        export_due = state.step % self._config.export_model_steps == 0
        if export_due or time.monotonic() - self._saved_at > 60 * self._config.checkpoint_minutes:
            self.save(state)
        if export_due and self._is_chief:
            with self._trainer.averaged() as model:
                saved_model.export_periodically(self._config, self._folder.local, model, state.step)
            self._folder.changed()

    def save(self, state: State, again: bool = False):
        """Write a checkpoint, unless there is one of this step and not `again`."""
        self._saved_at = time.monotonic()
        if (again or state.step != self._saved_step) and self._is_chief:
            checkpoints.save(
                self._folder.local, self._trainer.variables, state, self._config.keep_checkpoints
            )
            self._folder.changed()
            logging.info("Saved checkpoint for step %d.", state.step)
        self._saved_step = state.step


class _SkippedRecords:
    """Logs and counts records that cannot be read. The reader threads call it with the reason."""

    def __init__(self):
        self._count = 0
        self._lock = threading.Lock()

    def __call__(self, reason: str):
        with self._lock:
            self._count += 1
        logging.warning("Skipped record: %s", reason)

    def log_total(self):
        """Log the number of records skipped in all epochs."""
        if self._count:
            logging.warning(
                "Skipped %d bad record%s in total.",
                self._count,
                "" if self._count == 1 else "s",
                extra={"fields": {"bad_records": self._count}},
            )


class _Signals:
    """Records a SIGTERM or Ctrl-C, so that the loop can stop after a complete step.

    A second Ctrl-C stops immediately.
    """

    def __enter__(self):
        self.received = False
        self.number = signal.SIGTERM
        self._previous = {}
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._previous[number] = signal.signal(number, self._handle)
        return self

    def _handle(self, number, _):
        if number == signal.SIGINT:
            if self.received:
                raise KeyboardInterrupt
            print("\nStopping after this step. Press Ctrl-C again to stop now.", file=sys.stderr)
        self.received = True
        self.number = signal.Signals(number)

    def __exit__(self, *_):
        for number, handler in self._previous.items():
            signal.signal(number, handler)
