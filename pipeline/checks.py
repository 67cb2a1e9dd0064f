"""Validation of a run's parameters before the first step starts."""

from components.gate import GateConfig
from components.train import check_num_workers, parse_accelerator_count, trainer_config
from components.validate_data.flags import parse
from trainer.serving.options import PredictionOptions


def check(values: dict):
    """Check a run's parameters as its steps will.

    Args:
        values: Name -> value; parameters that are not given have their defaults.

    Raises:
        UserError: A parameter of the gate, a flag of the trainer, an option of the prediction, the
            number of accelerators or of workers is unknown or out of range.
    """
    if "predictions_dir" in values:  # batch prediction
        names = ("output_format", "top_k", "min_probability", "batch_size")
        PredictionOptions(**{name: values[name] for name in names})
        return
    rules = {name: value for name, value in values.items() if name.startswith("gate_")}
    GateConfig(metrics_file="comes later", **rules)
    parse_accelerator_count(values.get("accelerator_count", "0"))
    parse(values.get("data_validation_flags", ""))
    check_num_workers(values.get("num_workers", 1))
    trainer_config(values)
