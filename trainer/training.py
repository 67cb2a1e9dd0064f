"""The training loop."""

import dataclasses
import hashlib
import json
import logging
import signal
import threading
import time

import keras
import numpy as np
import tensorflow as tf

from trainer import checkpoints, exporting, losses, models, optimizers, reading, storage
from trainer.config import TrainConfig
from trainer.errors import UserError
from trainer.metrics import VideoMetrics
from trainer.reading import Position

SECONDS_BETWEEN_LINES = 2


def train(config: TrainConfig) -> int:
    """Trains until --num_epochs or --max_steps is reached, from the newest checkpoint if any.

    Returns:
        The number of steps done, over the whole run.

    Raises:
        UserError: a flag, a file or a record is not as it must be.
        Terminated: the process was asked to end (SIGTERM); its work is in a checkpoint.
    """
    files = _files(config)
    _set_up_devices(config)
    # 1 more, because tf.data cannot shuffle by a tensor when TensorFlow's global seed is 0.
    keras.utils.set_random_seed(config.seed + 1)
    trainer = Trainer(config)
    state = _start(config, trainer, files)
    with reading.explained(files, config.record_format), _Sigterm() as sigterm:
        return _loop(config, trainer, state, files, sigterm)


class Terminated(SystemExit):
    """Ends the process with the exit code of one that SIGTERM ended."""

    def __init__(self):
        super().__init__(128 + signal.SIGTERM)


class Trainer:
    """A model, its optimizer and the step that improves it."""

    def __init__(self, config: TrainConfig):
        self.config = config
        self.loss = losses.find(config.label_loss)
        self.model = models.create(config.model_flags)
        self.weights = [weight.value for weight in self.model.trainable_variables]
        self.optimizer = optimizers.Optimizer(config.optimizer, self.weights)
        self.steps = tf.Variable(0, dtype=tf.int64, trainable=False)
        self.variables = tf.train.Checkpoint(
            model=self.model, optimizer=self.optimizer, steps=self.steps
        )

    @tf.function(reduce_retracing=True)
    def step(self, inputs, labels):
        """One update. Returns the mean label loss and the predictions, both before the update."""
        with tf.GradientTape() as tape:
            predictions = models.predict(self.model, inputs, training=True)
            label_loss = tf.reduce_mean(self.loss(predictions, labels))
            penalty = self.config.regularization_penalty * tf.add_n(self.model.losses)
            loss = label_loss + penalty
        gradients = tape.gradient(loss, self.weights)
        gradients = optimizers.clip_each(gradients, self.config.clip_gradient_norm)
        rate = optimizers.learning_rate(self.config, self.steps)
        self.steps.assign_add(1)
        self.optimizer.apply(gradients, rate, self.steps)
        return label_loss, predictions


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


def _start(config: TrainConfig, trainer: Trainer, files: list[str]) -> checkpoints.State:
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
        return checkpoints.State(0, Position(), order, flags)
    logging.info("Resuming at step %d, epoch %d.", state.step, state.position.epoch + 1)
    for name, value in flags.items():
        if name in state.flags and state.flags[name] != value:
            logging.info("--%s was %s, is now %s.", name, state.flags[name], value)
    position = state.position
    if state.order != order and position.videos:
        logging.warning(
            "The files, --num_readers or --seed changed, and with them the order of the videos: "
            "epoch %d starts again from its beginning.",
            position.epoch + 1,
        )
        position = Position(position.epoch, 0)
    return checkpoints.State(state.step, position, order, flags)


def _order(config: TrainConfig, files: list[str]) -> str:
    """Identifies the order of the videos that `reading` makes of these settings."""
    settings = json.dumps([files, config.num_readers, config.seed])
    return hashlib.sha256(settings.encode()).hexdigest()[:16]


def _loop(config, trainer, state, files, sigterm) -> int:
    batches = reading.training_batches(
        files,
        config.record_format,
        config.batch_size,
        config.num_epochs,
        config.num_readers,
        config.seed,
        state.position,
    )
    progress = _Progress(config, state.step)
    limit = config.max_steps or float("inf")
    if state.step >= limit:
        logging.info("--max_steps=%d are done already; nothing to train.", config.max_steps)
        return state.step
    saved = state.step
    for batch, epoch in batches:
        loss, predictions = trainer.step(reading.model_inputs(batch), batch["labels"])
        state = _after(state, int(epoch), len(batch["labels"]))
        progress.add(state, loss, predictions, batch["labels"])
        if state.step >= limit or sigterm.received:
            break
        if state.step % config.export_model_steps == 0:
            _save(config, trainer, state)
            exporting.export_periodically(config, trainer.model, state.step)
            saved = state.step
    else:
        state = dataclasses.replace(state, position=Position(config.num_epochs))
    if state.step != saved:
        _save(config, trainer, state)
    if sigterm.received:
        logging.warning("Asked to end (SIGTERM): stopped after step %d, resumable.", state.step)
        raise Terminated
    if state.step == 0:
        raise UserError(f"The {len(files)} training files hold no videos: {files[0]} ...")
    progress.finish(state)
    return state.step


def _after(state: checkpoints.State, epoch: int, videos: int) -> checkpoints.State:
    """The state after one more step, on `videos` videos of `epoch`."""
    done = state.position.videos if epoch == state.position.epoch else 0
    return dataclasses.replace(state, step=state.step + 1, position=Position(epoch, done + videos))


def _save(config, trainer, state):
    checkpoints.save(config.train_dir, trainer.variables, state, config.keep_checkpoints)
    logging.info("Saved the checkpoint of step %d.", state.step)


class _Progress:
    """Writes a line about training every few seconds."""

    def __init__(self, config: TrainConfig, first_step: int):
        self.config = config
        self.first_step = first_step
        self.started = self.last_line = time.monotonic()
        self.videos = self.videos_since_line = 0

    def add(self, state: checkpoints.State, loss, predictions, labels):
        self.videos += len(labels)
        self.videos_since_line += len(labels)
        seconds = time.monotonic() - self.last_line
        if state.step > self.first_step + 1 and seconds < SECONDS_BETWEEN_LINES:
            return
        scores = batch_metrics(predictions, labels)
        logging.info(
            "training step %d | epoch %d/%d | Loss: %.2f Examples/sec: %.0f | "
            "Hit@1: %.2f PERR: %.2f GAP: %.2f",
            state.step,
            state.position.epoch + 1,
            self.config.num_epochs,
            float(loss),
            self.videos_since_line / max(seconds, 1e-9),
            scores.hit_at_1(),
            scores.perr(),
            scores.gap(),
        )
        self.last_line, self.videos_since_line = time.monotonic(), 0

    def finish(self, state: checkpoints.State):
        seconds = time.monotonic() - self.started
        logging.info(
            "Done training: step %d, %s videos in %.0f s.", state.step, f"{self.videos:,}", seconds
        )


def batch_metrics(predictions, labels) -> VideoMetrics:
    """The metrics of one batch: predictions [batch, num_classes], labels [batch, n]."""
    metrics = VideoMetrics(predictions.shape[1])
    k = min(max(metrics.top_k, labels.shape[1]), metrics.num_classes)
    top_scores, top_classes = tf.math.top_k(predictions, k)
    metrics.add(top_scores.numpy(), top_classes.numpy(), labels.numpy())
    return metrics


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
