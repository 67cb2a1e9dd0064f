"""The model that a batch prediction uses, and the format of the records that it reads."""

from components.registry.registry import read_champion
from trainer.common import storage
from trainer.common.errors import UserError
from trainer.data.records import RecordFormat, record_format


def resolve_model(model_dir: str, publish_dir: str) -> str:
    """Return the folder of the model to predict with.

    The published model is pinned here, so that all steps of a run use the same one.

    Args:
        model_dir: An exported model, or a train_dir. Empty: the published model.
        publish_dir: Folder of the published models.

    Raises:
        UserError: `model_dir` is empty, and no model is published.
    """
    if model_dir:
        return model_dir
    champion = read_champion(publish_dir)
    if champion is None:
        raise UserError(
            f"No model is published in {publish_dir!r}. Run the training pipeline with the same "
            "output_dir, or set model_dir."
        )
    return champion.path


def read_record_format(model_dir: str) -> RecordFormat:
    """Return the format of the records that a model reads, from its manifest or its flags.

    Raises:
        UserError: There is no model in `model_dir`.
    """
    manifest = storage.join(model_dir, "manifest.json")
    flags = storage.join(model_dir, "model_flags.json")
    if storage.exists(manifest):
        return record_format(storage.read_json(manifest, "model_flags")["model_flags"])
    if storage.exists(flags):
        return record_format(storage.read_json(flags, "feature_names", "num_classes"))
    raise UserError(
        f"No model in {model_dir!r}: expected manifest.json of an exported model, or "
        "model_flags.json of a training run."
    )
