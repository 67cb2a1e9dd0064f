"""The training loop."""

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
from trainer.data import examples, input_pipeline, tfrecord
from trainer.data.input_pipeline import Position
from trainer.run_dir import checkpoints, train_folder
from trainer.run_dir.checkpoints import State
from trainer.serving import saved_model
from trainer.training import distribution
from trainer.training.progress import Progress
from trainer.training.step import Trainer


def train(config: TrainConfig, strategy: tf.distribute.Strategy | None = None) -> int:
    """Trains until --num_epochs or --max_steps is reached, from the newest checkpoint if any.

    Args:
        config: the flags.
        strategy: the devices to train on; None: as --num_gpu and TF_CONFIG say.

    Returns:
        The number of steps done, over the whole run.

    Raises:
        UserError: a flag, a file or a record is not as it must be, or the loss is not finite, or
            another worker was lost, or another trainer works in --train_dir.
        Terminated: the process was asked to end (SIGTERM, Ctrl-C); its work is in a checkpoint.
    """
    files = _files(config)
    tf.debugging.set_log_device_placement(config.log_device_placement)
    trainer = Trainer(config, strategy or distribution.strategy_for(config))
    worker, num_workers = distribution.worker(trainer.strategy)
    # A signal is not to interrupt the upload of the last checkpoint either.
    with _Signals() as signals, _folder(config, worker, num_workers) as folder:
        order = _order(config, files, num_workers)
        state = _start(config, folder.local, trainer, order, first=worker == 0)
        if num_workers > 1 and not trainer.started_together():
            raise UserError("The workers start at different steps. Start all of them again.")
        files = _files_of_worker(files, worker, num_workers)
        with input_pipeline.explained(files, config.record_format):
            return _Run(config, folder, trainer, state, files, signals).run()


# What a step raises when another machine stops answering.
LOST_WORKER = (tf.errors.UnavailableError, tf.errors.AbortedError, tf.errors.CancelledError)


class Terminated(SystemExit):
    """Ends the process with the exit code of one that a signal ended."""

    def __init__(self, signal_number: int):
        super().__init__(128 + signal_number)


def _files(config: TrainConfig) -> list[str]:
    if not config.train_data_pattern:
        raise UserError("--train_data_pattern must be given: a glob of the training shards.")
    if not config.train_dir:
        raise UserError("--train_dir must be given: the folder to save the model files in.")
    return storage.glob(config.train_data_pattern)


def _files_of_worker(files: list[str], worker: int, num_workers: int) -> list[str]:
    """Every num_workers-th file, so that no video is read by two workers."""
    if len(files) < num_workers:
        raise UserError(
            f"{num_workers} workers need as many training files at least; got {len(files)}."
        )
    return files[worker::num_workers]


def _folder(config: TrainConfig, worker: int, num_workers: int):
    """The first worker holds --train_dir and saves in it; the others start from what is there."""
    if worker > 0:
        return train_folder.follow(config.train_dir)
    return train_folder.hold(
        config.train_dir, config.keep_checkpoints, config.start_new_model, num_workers == 1
    )


def _start(config: TrainConfig, train_dir: str, trainer: Trainer, order: str, first: bool) -> State:
    """The state to go on from: the newest checkpoint's, or a new model's.

    Args:
        first: whether this is the first worker, which alone writes to `train_dir`.
    """
    flags = asdict(config)
    if first and config.start_new_model:
        checkpoints.remove_all(train_dir)
    if first:
        checkpoints.remove_leftovers(train_dir)
        checkpoints.keep_model_flags(train_dir, config.model_flags)
    state = None
    if first or not config.start_new_model:
        state = checkpoints.restore(train_dir, trainer.variables)
    if state is None:
        num_weights = sum(int(np.prod(weight.shape)) for weight in trainer.weights)
        logging.info(
            "New %s of %s weights in %s.", config.model, f"{num_weights:,}", config.train_dir
        )
        return State(0, Position(), order, flags)
    if first:  # a trainer that was killed between writing a checkpoint and removing an old one
        checkpoints.remove_old(train_dir, state.step, config.keep_checkpoints)
    if not _max_steps_done(config, state) and state.position.epoch < config.num_epochs:
        logging.info("Resuming at step %d, epoch %d.", state.step, state.position.epoch + 1)
    for name, value in flags.items():
        if state.flags.get(name, value) != value and name != "start_new_model":
            logging.info("--%s was %s, is now %s.", name, state.flags[name], value)
    position = state.position
    if state.order != order and position.videos:
        logging.warning(
            "The files, --num_readers or --seed changed, and with them the order of the videos: "
            "epoch %d starts again from its beginning.",
            position.epoch + 1,
        )
        position = Position(position.epoch, 0)
    return State(state.step, position, order, flags)


def _max_steps_done(config: TrainConfig, state: State) -> bool:
    return bool(config.max_steps) and state.step >= config.max_steps


def _order(config: TrainConfig, files: list[str], num_workers: int) -> str:
    """Identifies the order of the videos that `reading` makes of these settings."""
    settings = json.dumps([files, num_workers, config.num_readers, config.seed])
    return hashlib.sha256(settings.encode()).hexdigest()[:16]


class _Run:
    """One process' part in training, from a state to the end."""

    def __init__(
        self,
        config: TrainConfig,
        folder: train_folder.LocalFolder | train_folder.RemoteFolder,
        trainer: Trainer,
        state: State,
        files: list[str],
        signals: "_Signals",
    ):
        self.config = config
        self.folder = folder
        self.trainer = trainer
        self.files = files
        self.signals = signals
        self.state = self.start = self.saved = state
        self.saved_at = time.monotonic()
        self.bad_records = _BadRecords()
        self.worker, self.num_workers = distribution.worker(trainer.strategy)
        self.videos_a_step = config.batch_size * distribution.num_local(trainer.strategy)

    def run(self) -> int:
        """Trains. Returns the number of steps done, over the whole run."""
        config = self.config
        if _max_steps_done(config, self.state):
            logging.info("--max_steps=%d are done already; nothing to train.", config.max_steps)
            return self.state.step
        events_dir = os.path.join(self.folder.local, "events")
        with Progress(config, self.state, _num_videos(config, self.files), events_dir) as progress:
            try:
                # Reading has to end before Python does, which its threads may call and wait for.
                with contextlib.closing(self._batches()) as batches:
                    self._steps(batches, progress)
            except LOST_WORKER as error:
                if self.num_workers == 1:
                    raise
                self._lost_worker(error)
            self._save_unless_saved()
            self.bad_records.finish()
            if self.signals.received:
                name, step = self.signals.number.name, self.state.step
                logging.warning("Asked to end (%s) after step %d; resumable.", name, step)
                raise Terminated(self.signals.number)
            if self.state.step == 0:
                raise UserError(f"The training files hold no videos: {self.files[0]} ...")
            if self.state.step == self.start.step:
                logging.info(
                    "All %d epochs are done already, in %d steps; nothing to train.",
                    config.num_epochs,
                    self.state.step,
                )
            elif self.worker == 0:
                progress.finish(self.state)
        return self.state.step

    def _steps(self, batches: Iterator, progress: Progress):
        """Goes through `_batches`, to the last epoch's end, --max_steps or a signal."""
        for batch, epoch, waited in batches:
            if self.state.step == self.start.step:
                _warn_without_labels(batch)
            result = self.trainer.step(batch, self.signals.received)
            if not result["videos"]:
                self.state = replace(self.state, position=Position(epoch + 1))
                continue
            if result["finite"]:
                self.state = replace(self.state, step=self.state.step + 1)
            else:
                self._not_finite(batch)
            self.state = replace(self.state, position=self._after(epoch))
            self.folder.check()
            self.signals.received |= bool(result["stop"])
            last = self.state.step == self.config.max_steps or self.signals.received
            if self.worker == 0:  # one voice is enough
                report = self.trainer.report
                progress.add(self.state, result, batch["labels"], report, waited, last)
            self._save_when_due()
            if last:
                return
        self.state = replace(self.state, position=Position(self.config.num_epochs))

    def _batches(self):
        """Yields this worker's batches, each with its epoch and the seconds that it took to come.

        All workers go through an epoch together: one whose files are done first goes on with
        empty batches, until a step finds all batches empty.
        """
        start, epoch = self.state.position, self.state.position.epoch
        batches = iter(self._data(start))
        try:
            asked = time.monotonic()
            batch, batch_epoch = next(batches, (None, None))
            while epoch < self.config.num_epochs:
                if batch is not None and batch_epoch == epoch:
                    yield batch, epoch, time.monotonic() - asked
                    asked = time.monotonic()
                    batch, batch_epoch = next(batches, (None, None))
                else:
                    if self.num_workers > 1:
                        yield input_pipeline.empty_batch(self.config.record_format), epoch, 0.0
                    if self.num_workers == 1 or self.state.position.epoch > epoch:
                        epoch += 1
        finally:
            del batches  # which ends reading, also where a traceback keeps the other variables

    def _data(self, start: Position) -> tf.data.Dataset:
        config = self.config
        return input_pipeline.training_batches(
            self.files,
            config.record_format,
            self.videos_a_step,
            config.num_epochs,
            config.num_readers,
            config.seed,
            start,
            self.bad_records if config.skip_bad_records else None,
        )

    def _after(self, epoch: int) -> Position:
        """The position after one more step in `epoch`, in which no worker took more videos."""
        done = self.state.position.videos if epoch == self.state.position.epoch else 0
        return Position(epoch, done + self.videos_a_step)

    def _save_when_due(self):
        due = self.state.step % self.config.export_model_steps == 0
        if due or time.monotonic() - self.saved_at > 60 * self.config.checkpoint_minutes:
            self._save_unless_saved()
        if due and self.worker == 0:
            saved_model.export_periodically(
                self.config, self.folder.local, self.trainer.model, self.state.step
            )
            self.folder.changed()

    def _save_unless_saved(self):
        self.saved_at = time.monotonic()
        if self.state.step != self.saved.step and self.worker == 0:
            checkpoints.save(
                self.folder.local,
                self.trainer.variables,
                self.state,
                self.config.keep_checkpoints,
            )
            self.folder.changed()
            logging.info("Saved the checkpoint of step %d.", self.state.step)
        self.saved = self.state

    def _not_finite(self, batch: dict[str, tf.Tensor]):
        """Fails or warns, since a step's loss or gradient was NaN or infinite."""
        ids = b" ".join(batch["id"].numpy()[:5]).decode()
        what = (
            f"The loss or its gradient is NaN or infinite at step {self.state.step + 1}, epoch "
            f"{self.state.position.epoch + 1}, in the batch of the videos {ids} ... of "
            f"{self.config.train_data_pattern}."
        )
        if self.config.skip_bad_batches:
            logging.warning("%s The batch is left out.", what)
            return
        self._save_unless_saved()
        raise UserError(
            f"{what} {self._why_not_finite(batch)} The weights of the step before are in a "
            "checkpoint. --skip_bad_batches leaves such batches out."
        )

    def _why_not_finite(self, batch: dict[str, tf.Tensor]) -> str:
        # The record is looked for in the files, which takes long, only if there is one.
        if all(np.isfinite(values).all() for values in tf.nest.flatten(batch["features"])):
            others = ", if those of the other workers are too" if self.num_workers > 1 else ""
            return (
                "Its features are finite, so --base_learning_rate "
                f"({self.config.base_learning_rate}) is likely too high{others}."
            )
        return str(examples.first_error(self.files, self.config.record_format))

    def _lost_worker(self, error: tf.errors.OpError):
        self._save_unless_saved()
        raise UserError(
            f"Another worker was lost after step {self.state.step}. Start all workers again; they "
            "go on from the newest checkpoint."
        ) from error


class _BadRecords:
    """Warns of records that are left out, and counts them. Called by the threads that read."""

    def __init__(self):
        self.count = 0
        self._lock = threading.Lock()

    def __call__(self, reason: str):
        with self._lock:
            self.count += 1
        logging.warning("Left out: %s", reason)

    def finish(self):
        """Says how many they were, in all epochs together."""
        if self.count:
            logging.warning(
                "Left out %s in all.",
                "1 bad record" if self.count == 1 else f"{self.count} bad records",
                extra={"fields": {"bad_records": self.count}},
            )


def _warn_without_labels(batch: dict[str, tf.Tensor]):
    """Warns of what test shards, of which the labels are kept secret, would be trained to."""
    if len(batch["labels"]) and not tf.reduce_any(batch["labels"] >= 0):
        logging.warning("No video of the first batch has a label: are these the training shards?")


def _num_videos(config: TrainConfig, files: list[str]) -> int | None:
    """How many videos there are, about, by the first records' size; None for remote files."""
    if any(file.startswith("gs://") for file in files):
        return None
    records = islice(examples.good_records(files[0], config.record_format, lambda _: None), 100)
    sizes = [len(tfrecord.frame(record)) for record in records]
    total = sum(storage.size(file) for file in files)
    return round(total / np.mean(sizes)) if sizes else None


class _Signals:
    """Notes a SIGTERM or Ctrl-C instead of dying of it, for the loop to end after a whole step.

    A second Ctrl-C ends at once.
    """

    def __enter__(self):
        self.received = False
        self.number = signal.SIGTERM
        self._before = {}
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._before[number] = signal.signal(number, self._note)
        return self

    def _note(self, number, _):
        if number == signal.SIGINT:
            if self.received:
                raise KeyboardInterrupt
            print("\nEnding after this step. Ctrl-C again ends at once.", file=sys.stderr)
        self.received = True
        self.number = signal.Signals(number)

    def __exit__(self, *_):
        for number, handler in self._before.items():
            signal.signal(number, handler)
