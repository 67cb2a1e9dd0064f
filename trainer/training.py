"""The training loop."""

import dataclasses
import hashlib
import json
import logging
import os
import signal
import threading
import time
from itertools import islice

import numpy as np
import tensorflow as tf

from trainer import checkpoints, examples, exporting, reading, storage, tfrecord
from trainer.checkpoints import State
from trainer.config import TrainConfig
from trainer.errors import UserError
from trainer.progress import Progress
from trainer.reading import Position
from trainer.step import Trainer


def train(config: TrainConfig) -> int:
    """Trains until --num_epochs or --max_steps is reached, from the newest checkpoint if any.

    Returns:
        The number of steps done, over the whole run.

    Raises:
        UserError: a flag, a file or a record is not as it must be, or the loss is not finite.
        Terminated: the process was asked to end (SIGTERM); its work is in a checkpoint.
    """
    files = _files(config)
    _set_up_devices(config)
    trainer = Trainer(config)
    state = _start(config, trainer, files)
    with reading.explained(files, config.record_format), _Sigterm() as sigterm:
        return _loop(config, trainer, state, files, sigterm)


class Terminated(SystemExit):
    """Ends the process with the exit code of one that SIGTERM ended."""

    def __init__(self):
        super().__init__(128 + signal.SIGTERM)


def _files(config: TrainConfig) -> list[str]:
    if not config.train_data_pattern:
        raise UserError("--train_data_pattern must be given: a glob of the training shards.")
    if config.train_dir.startswith("gs://"):
        raise UserError(f"--train_dir must be a local folder; got {config.train_dir!r}.")
    return storage.glob(config.train_data_pattern)


def _set_up_devices(config: TrainConfig):
    gpus = tf.config.list_physical_devices("GPU")[: config.num_gpu]
    if len(gpus) > 1:
        raise UserError(
            f"--num_gpu must be 0 or 1 in this version; {len(gpus)} GPUs are asked for."
        )
    tf.config.set_visible_devices(gpus, "GPU")
    tf.debugging.set_log_device_placement(config.log_device_placement)


def _start(config: TrainConfig, trainer: Trainer, files: list[str]) -> State:
    """The state to go on from: the newest checkpoint's, or a new model's."""
    flags = dataclasses.asdict(config)
    order = _order(config, files)
    if config.start_new_model:
        checkpoints.remove_all(config.train_dir)
    checkpoints.keep_model_flags(config.train_dir, config.model_flags)
    state = checkpoints.restore(config.train_dir, trainer.variables)
    if state is None:
        num_weights = sum(int(np.prod(weight.shape)) for weight in trainer.weights)
        logging.info(
            "New %s of %s weights in %s.", config.model, f"{num_weights:,}", config.train_dir
        )
        return State(0, Position(), order, flags)
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


def _order(config: TrainConfig, files: list[str]) -> str:
    """Identifies the order of the videos that `reading` makes of these settings."""
    settings = json.dumps([files, config.num_readers, config.seed])
    return hashlib.sha256(settings.encode()).hexdigest()[:16]


def _loop(config, trainer, state, files, sigterm) -> int:
    limit = config.max_steps or float("inf")
    if state.step >= limit:
        logging.info("--max_steps=%d are done already; nothing to train.", config.max_steps)
        return state.step
    first_step, saved, saved_at = state.step, state.step, time.monotonic()
    events_dir = os.path.join(config.train_dir, "events")
    with Progress(config, state, _num_videos(config, files), events_dir) as progress:
        for batch, epoch, waited in _batches(config, files, state.position):
            result = trainer.step(reading.model_inputs(batch), batch["labels"])
            if not result["finite"]:
                _not_finite(config, state, batch, files)
            step = state.step + int(result["finite"])
            state = dataclasses.replace(state, step=step, position=_after(state, epoch, batch))
            last = state.step >= limit or sigterm.received
            progress.add(state, result, batch["labels"], waited, last)
            if last:
                break
            due = state.step % config.export_model_steps == 0
            if due or time.monotonic() - saved_at > 60 * config.checkpoint_minutes:
                _save(config, trainer, state)
                saved, saved_at = state.step, time.monotonic()
            if due:
                exporting.export_periodically(config, trainer.model, state.step)
        else:
            state = dataclasses.replace(state, position=Position(config.num_epochs))
        if state.step != saved:
            _save(config, trainer, state)
        if sigterm.received:
            logging.warning("Asked to end (SIGTERM): stopped after step %d, resumable.", state.step)
            raise Terminated
        if state.step == 0:
            raise UserError(f"The {len(files)} training files hold no videos: {files[0]} ...")
        if state.step == first_step:
            logging.info("All %d epochs are done already; nothing to train.", config.num_epochs)
        else:
            progress.finish(state)
    return state.step


def _batches(config, files, start: Position):
    """Yields batches, each with its epoch and the seconds that it was waited for."""
    batches = iter(
        reading.training_batches(
            files,
            config.record_format,
            config.batch_size,
            config.num_epochs,
            config.num_readers,
            config.seed,
            start,
            _warn_of_bad_record if config.skip_bad_records else None,
        )
    )
    while True:
        asked = time.monotonic()
        item = next(batches, None)
        if item is None:
            return
        batch, epoch = item
        yield batch, int(epoch), time.monotonic() - asked


def _warn_of_bad_record(reason: str):
    logging.warning("Left out: %s", reason)


def _after(state: State, epoch: int, batch) -> Position:
    """The position after one more batch, of `epoch`."""
    done = state.position.videos if epoch == state.position.epoch else 0
    return Position(epoch, done + len(batch["labels"]))


def _not_finite(config, state, batch, files):
    """Fails or warns, since a step's loss or gradient was NaN or infinite."""
    ids = b" ".join(batch["id"].numpy()[:5]).decode()
    what = (
        f"The loss or its gradient is NaN or infinite at step {state.step + 1}, epoch "
        f"{state.position.epoch + 1}, in the batch of the videos {ids} ..."
    )
    if config.skip_bad_batches:
        logging.warning("%s The batch is left out.", what)
        return
    reason = examples.first_error(files, config.record_format) or (
        "No record holds NaN or infinity, so --base_learning_rate "
        f"({config.base_learning_rate}) is likely too high."
    )
    raise UserError(
        f"{what} {reason} The newest checkpoint is from before it. --skip_bad_batches leaves such "
        "batches out."
    )


def _save(config, trainer, state):
    checkpoints.save(config.train_dir, trainer.variables, state, config.keep_checkpoints)
    logging.info("Saved the checkpoint of step %d.", state.step)


def _num_videos(config: TrainConfig, files: list[str]) -> int | None:
    """How many videos there are, about, by the first records' size; None for remote files."""
    if any(file.startswith("gs://") for file in files):
        return None
    records = islice(examples.good_records(files[0], config.record_format, lambda _: None), 100)
    sizes = [len(tfrecord.frame(record)) for record in records]
    total = sum(storage.size(file) for file in files)
    return round(total / np.mean(sizes)) if sizes else None


class _Sigterm:
    """Notes a SIGTERM instead of dying of it, so that the loop can end after a whole step."""

    def __enter__(self):
        self.received = False
        self._main = threading.current_thread() is threading.main_thread()
        if self._main:
            self._before = signal.signal(signal.SIGTERM, self._note)
        return self

    def _note(self, *_):
        self.received = True

    def __exit__(self, *_):
        if self._main:
            signal.signal(signal.SIGTERM, self._before)
