"""Combine trained models into an EnsembleModel."""

import logging
from dataclasses import replace

from trainer.common.errors import UserError
from trainer.config import TrainConfig
from trainer.data import manifest
from trainer.data.input_pipeline import Position
from trainer.models import registry
from trainer.run_dir import checkpoints
from trainer.serving import loading
from trainer.training import calibration

SHARED = ("feature_names", "feature_sizes", "frame_features", "num_classes", "calibration_fraction")


def combine(member_dirs: list[str], train_dir: str, train_data_pattern: str, seed: int):
    """Write the average of the models in `member_dirs` to the local folder `train_dir`.

    Raises:
        UserError: there is no model in a folder, or the models do not take the same features.
    """
    restored = [loading.restore(folder) for folder in member_dirs]
    all_flags = [flags for _, flags, _ in restored]
    for folder, flags in zip(member_dirs, all_flags, strict=True):
        for name in SHARED:
            if flags[name] != all_flags[0][name]:
                raise UserError(
                    f"The members must have the same --{name}: {member_dirs[0]} has "
                    f"{all_flags[0][name]!r}, {folder} has {flags[name]!r}."
                )
    flags = {name: all_flags[0][name] for name in SHARED}
    flags |= {"model": "EnsembleModel", "members": all_flags}
    model = registry.create(flags)
    for member, (trained, _, _) in zip(model.members, restored, strict=True):
        values = registry.variables(trained)
        for name, variable in registry.variables(member).items():
            variable.assign(values[name])
    step = max(step for _, _, step in restored)
    if flags["calibration_fraction"]:
        if not train_data_pattern:
            raise UserError("--train_data_pattern must be given, to recalibrate the average.")
        config = TrainConfig(train_data_pattern=train_data_pattern, seed=seed)
        config = replace(config, **{name: flags[name] for name in SHARED if name in flags})
        calibration.fit(config, model, manifest.expand(train_data_pattern), step)
    checkpoints.remove_all(train_dir)
    checkpoints.keep_model_flags(train_dir, flags)
    state = checkpoints.State(step, Position(), "", flags)
    checkpoints.save(train_dir, registry.variables(model), state, keep=1)
    logging.info("Saved the average of %d models in %s.", len(restored), train_dir)
