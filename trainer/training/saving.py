"""Checkpoints of a training run: where it starts from, and when it saves."""

import logging
import os
import time
from dataclasses import asdict

import numpy as np

from trainer.common.errors import UserError
from trainer.config import TrainConfig
from trainer.data.input_pipeline import Position
from trainer.run_dir import checkpoints, working_dir
from trainer.run_dir.checkpoints import State
from trainer.serving import saved_model
from trainer.training.step import Trainer


def open_train_dir(config: TrainConfig, is_chief: bool, num_workers: int):
    """Lock --train_dir on the chief, which alone writes to it; the other workers only read it."""
    if not is_chief:
        return working_dir.open_read_only(config.train_dir)
    return working_dir.open_exclusive(
        config.train_dir,
        config.keep_checkpoints,
        lambda local: config.start_new_model and not _is_retry(config, local),
        num_workers == 1,
    )


def restore_or_create(
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
    if not reached_max_steps(config, state) and state.position.epoch < config.num_epochs:
        logging.info("Resuming at step %d, epoch %d.", state.step, state.position.epoch + 1)
    for name, value in flags.items():
        if state.flags.get(name, value) != value and name != "start_new_model":
            logging.info("--%s changed from %s to %s.", name, state.flags[name], value)


def _is_retry(config: TrainConfig, train_dir: str) -> bool:
    """Whether the newest checkpoint is of a run with the same flags that has not ended."""
    state = checkpoints.newest_state(train_dir)
    if state is None or state.flags != asdict(config):
        return False
    return not reached_max_steps(config, state) and state.position.epoch < config.num_epochs


def reached_max_steps(config: TrainConfig, state: State) -> bool:
    return bool(config.max_steps) and state.step >= config.max_steps


class Saver:
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

    def check_folder(self):
        """Check that --train_dir still exists and that no other trainer has taken over."""
        self._folder.check()
        local = self._folder.local
        if self._is_chief and not os.path.exists(os.path.join(local, checkpoints.MODEL_FLAGS_FILE)):
            raise UserError(
                f"{local}, the folder of --train_dir={self._config.train_dir}, was removed during "
                "training. Run the same command again to train from the beginning."
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
