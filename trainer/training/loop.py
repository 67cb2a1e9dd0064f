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
from typing import NamedTuple

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
            with input_pipeline.explained():
                trainer.model.initialize(_first_features(config, all_files))
        teacher = Teacher(config.teacher_dir) if config.teacher_dir else None

        # Input, checkpoints and progress.
        stack.enter_context(input_pipeline.explained())
        videos_per_step = config.batch_size * distribution.num_local(trainer.strategy)
        events = os.path.join(folder.local, "events")
        progress = stack.enter_context(
            Progress(config, state, _estimate_num_videos(config, files), events, videos_per_step)
        )
        saver = _Saver(config, trainer, folder, state, is_chief)
        skipped = _SkippedRecords()
        dataset = input_pipeline.training_batches(
            files,
            config.record_format,
            videos_per_step,
            config.num_epochs,
            config.num_readers,
            config.seed,
            state.position,
            skipped if config.skip_bad_records else None,
            _count_records(config, state, files),
            _held_out(config),
        )
        batches = _Batches(dataset, config, state.position.epoch, num_workers)
        del dataset

        def finish(state: State, step: _Step, last: bool = False) -> State:
            """Read the result of a step, which waits for its end."""
            if not step.result["finite"]:
                _handle_non_finite(config, state, step.batch, files, num_workers, trainer, saver)
            state = _advance(state, step.epoch, videos_per_step, bool(step.result["finite"]))
            folder.check()
            if is_chief:
                _check_exists(config, folder.local)
                progress.add(
                    state,
                    step.result,
                    step.batch["labels"],
                    trainer.report,
                    step.wait_seconds,
                    last or state.step == config.max_steps or signals.received,
                )
            return state

        # Training loop. The result of a step is read after the next one was started, so that an
        # accelerator never waits for Python; but at once if something depends on it.
        unfinished = None
        try:
            # Reading must end before Python does: its threads may call Python.
            with contextlib.closing(batches):
                for batch, epoch, wait_seconds in batches:
                    if state.step == start.step:
                        _warn_if_unlabelled(batch)
                    if teacher:
                        batch |= teacher.targets(batch)
                    result = trainer.step(batch, signals.received, epoch)
                    step = _Step(batch, epoch, wait_seconds, result)
                    if unfinished:
                        state = finish(state, unfinished)
                    unfinished = step
                    if not (
                        num_workers > 1
                        or signals.received
                        or state.step + 1 == config.max_steps
                        or progress.is_due(state)
                        or saver.is_due(state.step + 1)
                    ):
                        continue
                    unfinished = None
                    if num_workers > 1:
                        signals.received |= bool(step.result["stop"])
                        if not step.result["videos"]:  # all workers have read the epoch
                            batches.finish_epoch()
                            state = replace(state, position=Position(epoch + 1))
                            continue
                    state = finish(state, step)
                    last = state.step == config.max_steps or signals.received
                    if not (last and config.calibration_fraction):  # saved once it is recalibrated
                        saver.save_if_due(state)
                    if last:
                        break
                else:
                    if unfinished:
                        state = finish(state, unfinished, last=True)
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
        if is_chief:
            _check_exists(config, folder.local)
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
    with input_pipeline.explained():
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
        config.train_dir,
        config.keep_checkpoints,
        lambda local: config.start_new_model and not _is_retry(config, local),
        num_workers == 1,
    )


def _is_retry(config: TrainConfig, train_dir: str) -> bool:
    """Whether the newest checkpoint is of a run with the same flags that has not ended."""
    state = checkpoints.newest_state(train_dir)
    if state is None or state.flags != asdict(config):
        return False
    return not _reached_max_steps(config, state) and state.position.epoch < config.num_epochs


def _check_exists(config: TrainConfig, local: str):
    """Check that nobody has removed the folder that the run works in."""
    if not os.path.exists(os.path.join(local, checkpoints.MODEL_FLAGS_FILE)):
        raise UserError(
            f"{local}, the folder of --train_dir={config.train_dir}, was removed during training. "
            "Run the same command again to train from the beginning."
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
        checkpoints.remove_leftovers(train_dir)
        checkpoints.keep_model_flags(train_dir, config.model_flags)
    state = None
    if is_chief or not config.start_new_model or _is_retry(config, train_dir):
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


def _estimate_num_videos(config: TrainConfig, files: list[str]) -> int | None:
    """Return the number of videos; without a manifest, estimate it by the size of some records."""
    if manifest.is_manifest(config.train_data_pattern):
        return sum(_counts_of_manifest(config, files))
    records = islice(examples.good_records(files[0], config.record_format, lambda _: None), 100)
    sizes = [len(tfrecord.frame(record)) for _, record in records]
    total = sum(status.size for status in storage.statuses(files).values())
    return round(total / np.mean(sizes)) if sizes else None


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


def _counts_of_manifest(config: TrainConfig, files: list[str]) -> list[int]:
    counts = {f.path: f.num_records for f in manifest.read(config.train_data_pattern).files}
    return [counts[file] for file in files]


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
    trainer: Trainer,
    saver: "_Saver",
):
    """Warn about a batch with a loss or gradient of NaN or infinity; fail unless it is skipped.

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


class _Step(NamedTuple):
    """A step that was started."""

    batch: dict
    epoch: int
    wait_seconds: float
    result: dict


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

    def is_due(self, step: int) -> bool:
        """Whether a checkpoint is due after `step`."""
        minutes = (time.monotonic() - self._saved_at) / 60
        return self._is_export_due(step) or minutes > self._config.checkpoint_minutes

    def _is_export_due(self, step: int) -> bool:
        return step % self._config.export_model_steps == 0

    def save_if_due(self, state: State):
        """Save after --export_model_steps, which export the model too, or --checkpoint_minutes."""
        export_due = self._is_export_due(state.step)
        if self.is_due(state.step):
            self.save(state)
        if export_due and self._is_chief:
            with self._trainer.averaged() as model:
                saved_model.export_periodically(self._config, self._folder.local, model, state.step)
            self._folder.changed()

    def check_finite(self, state: State):
        """Check that the last update has not made weights NaN or infinite."""
        if self._trainer.is_finite():
            return
        newest = checkpoints.latest_step(self._folder.local) if self._is_chief else self._saved_step
        earlier = f"The newest checkpoint is of step {newest}." if newest else "There is none yet."
        raise UserError(
            f"The weights are NaN or infinite after step {state.step}: --base_learning_rate "
            f"({self._config.base_learning_rate}) is likely too high. {earlier}"
        )

    def save(self, state: State, again: bool = False):
        """Write a checkpoint, unless there is one of this step and not `again`."""
        self._saved_at = time.monotonic()
        if (again or state.step != self._saved_step) and self._is_chief:
            self.check_finite(state)
            checkpoints.save(
                self._folder.local, self._trainer.variables, state, self._config.keep_checkpoints
            )
            self._folder.changed()
            logging.info("Saved checkpoint for step %d.", state.step)
        self._saved_step = state.step


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


class _Signals:
    """Records a SIGTERM or Ctrl-C, so that the loop can stop after a complete step.

    A second Ctrl-C ends the process immediately, even while it waits for input: Python runs signal
    handlers only between operations, so a thread watches for it.
    """

    def __enter__(self):
        self.received = False
        self.number = signal.SIGTERM
        self._previous = {}
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._previous[number] = signal.signal(number, self._handle)
            read, self._write = os.pipe()
            os.set_blocking(self._write, False)
            self._previous_fd = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
            threading.Thread(target=_exit_at_second_interrupt, args=[read], daemon=True).start()
        return self

    def _handle(self, number, _):
        self.received = True
        self.number = signal.Signals(number)

    def __exit__(self, *_):
        if self._previous:
            signal.set_wakeup_fd(self._previous_fd)
            os.close(self._write)  # ends the thread
        for number, handler in self._previous.items():
            signal.signal(number, handler)


def _exit_at_second_interrupt(pipe: int):
    """Read the numbers of received signals from a pipe until it is closed."""
    interrupts = 0
    with open(pipe, "rb", buffering=0) as file:
        while number := file.read(1):
            interrupts += number[0] == signal.SIGINT
            if interrupts == 2:
                print("Interrupted.", file=sys.stderr, flush=True)
                os._exit(128 + signal.SIGINT)
            if number[0] == signal.SIGINT:
                message = "\nStopping after this step. Press Ctrl-C again to stop now."
                print(message, file=sys.stderr, flush=True)
