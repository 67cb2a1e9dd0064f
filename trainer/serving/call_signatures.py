"""Call the signatures of a SavedModel: python call_signatures.py MODEL_DIR RECORDS FEATURES OUTPUT

Imports TensorFlow alone, as a model server would: a model that needs anything of this project to be
loaded fails.

Args:
    MODEL_DIR: Folder of the SavedModel.
    RECORDS: TFRecord file, for the signature `serving_default`.
    FEATURES: .npz file with the inputs of the signature `features`.
    OUTPUT: .npz file to write: "SIGNATURE/NAME" of each output.
"""

import sys

import numpy as np
import tensorflow as tf


def main(model_dir: str, records_file: str, features_file: str, output_file: str) -> None:
    """Run the command."""
    signatures = tf.saved_model.load(model_dir).signatures
    records = list(tf.data.TFRecordDataset(records_file).as_numpy_iterator())
    features = {name: tf.constant(value) for name, value in np.load(features_file).items()}
    results = {
        "serving_default": signatures["serving_default"](examples=tf.constant(records)),
        "features": signatures["features"](**features),
    }
    arrays = {
        f"{signature}/{name}": _without_objects(value.numpy())
        for signature, outputs in results.items()
        for name, value in outputs.items()
    }
    np.savez(output_file, **arrays)


def _without_objects(array: np.ndarray) -> np.ndarray:
    """Return strings in a type that needs no pickling."""
    return array.astype(np.bytes_) if array.dtype == object else array


if __name__ == "__main__":
    main(*sys.argv[1:])
