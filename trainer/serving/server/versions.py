"""The versions of a model in a served folder, and the one that answers requests.

A served folder, local or gs://, contains a folder for each version: a number, with a SavedModel.
The highest version is the champion, as in TensorFlow Serving.
"""

import logging
import shutil
import tempfile
import threading
from dataclasses import dataclass, field

import numpy as np
import tensorflow as tf

from trainer.common import storage
from trainer.common.errors import UserError

SAVED_MODEL = "saved_model.pb"


@dataclass(frozen=True)
class Signature:
    """A signature of a SavedModel.

    Attributes:
        inputs: Name -> shape and type.
        function: Takes tensors by name, and returns tensors by name.
    """

    inputs: dict[str, tf.TensorSpec]
    function: tf.types.experimental.ConcreteFunction

    @property
    def takes_records(self) -> bool:
        """Whether its only input is serialized records."""
        return [spec.dtype for spec in self.inputs.values()] == [tf.string]

    def __call__(self, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Return the outputs as arrays.

        Raises:
            ValueError: An input is missing, unknown, or of the wrong shape or type.
            tf.errors.InvalidArgumentError: A record cannot be parsed.
        """
        if inputs.keys() != self.inputs.keys():
            expected, given = ", ".join(sorted(self.inputs)), ", ".join(sorted(inputs))
            raise ValueError(f"Expected the inputs {expected}; got {given or 'none'}.")
        outputs = self.function(**{name: self._tensor(name, inputs[name]) for name in inputs})
        return {name: output.numpy() for name, output in outputs.items()}

    def _tensor(self, name: str, values: np.ndarray) -> tf.Tensor:
        spec = self.inputs[name]
        try:
            tensor = tf.convert_to_tensor(values, spec.dtype)
        except (TypeError, ValueError, tf.errors.OpError):
            tensor = None
        if tensor is None or not spec.shape.is_compatible_with(tensor.shape):
            raise ValueError(
                f"The input {name!r} must be {spec.dtype.name} with the shape {spec.shape}; got "
                f"{np.asarray(values).dtype} with the shape {np.shape(values)}."
            )
        return tensor


@dataclass(frozen=True)
class Version:
    """A loaded version of a model.

    Attributes:
        number: Its number.
        signatures: Name -> signature.
        model_flags: The flags that define the model; empty if it has no manifest.
        module: The SavedModel, which keeps the variables of the signatures alive.
    """

    number: int
    signatures: dict[str, Signature]
    model_flags: dict = field(default_factory=dict)
    module: object = None

    def signature_for(self, name: str, input_names: set[str]) -> Signature:
        """Return the signature of a name; without a name, the one with these inputs.

        Raises:
            ValueError: There is none.
        """
        if name:
            if name not in self.signatures:
                known = ", ".join(sorted(self.signatures))
                raise ValueError(f"There is no signature {name!r}; there are {known}.")
            return self.signatures[name]
        for signature in self.signatures.values():
            if signature.inputs.keys() == input_names:
                return signature
        return self.signatures["serving_default"]


class Versions:
    """The champion of a served folder, replaced when there is another one.

    Args:
        served_dir: The served folder, local or gs://.
        on_load: Called with each new version, or with the error that it cannot be loaded.
    """

    def __init__(self, served_dir: str, on_load=lambda version: None):
        self.served_dir = served_dir
        self.current: Version | None = None
        self._on_load = on_load
        self._stop = threading.Event()
        self._failed: set[int] = set()

    def refresh(self) -> None:
        """Load the champion, unless it is loaded already.

        Requests are answered by the previous version until the new one has answered a first one,
        and those in progress by the version that they began with.
        """
        champion = champion_version(self.served_dir)
        if champion is None or (self.current and champion == self.current.number):
            return
        try:
            version = load(storage.join(self.served_dir, str(champion)), champion)
            _warm_up(version)
        except Exception as error:  # a damaged version must not stop the server
            if champion not in self._failed:  # once, though it is tried again
                logging.error("Cannot load version %d: %s", champion, error)
            self._failed.add(champion)
            self._on_load(error)
            return
        logging.info("Serving version %d of %s.", champion, self.served_dir)
        self.current = version
        self._on_load(version)

    def watch(self, seconds: float) -> None:
        """Refresh periodically, in a thread, until `stop`."""
        threading.Thread(target=self._watch, args=(seconds,), daemon=True).start()

    def stop(self) -> None:
        """Stop watching."""
        self._stop.set()

    def _watch(self, seconds: float) -> None:
        while not self._stop.wait(seconds):
            try:
                self.refresh()
            except UserError as error:  # the storage cannot be reached: keep serving
                logging.warning("Cannot look for a newer version: %s", error)


def champion_version(served_dir: str) -> int | None:
    """Return the highest version of a served folder; None if there is none."""
    parts = [path.split("/") for path in storage.files_below(served_dir)]
    numbers = [int(part[0]) for part in parts if part[0].isdecimal() and part[1:] == [SAVED_MODEL]]
    return max(numbers, default=None)


def load(folder: str, number: int) -> Version:
    """Load a version from its folder, local or gs://."""
    local = tempfile.mkdtemp(prefix="model-") if storage.is_remote(folder) else folder
    try:
        if local != folder:
            storage.copy_tree(folder, local)
        module = tf.saved_model.load(local)
    finally:
        if local != folder:
            shutil.rmtree(local)
    signatures = {
        name: Signature(function.structured_input_signature[1], function)
        for name, function in module.signatures.items()
    }
    manifest = storage.join(folder, "manifest.json")
    flags = storage.read_json(manifest).get("model_flags", {}) if storage.exists(manifest) else {}
    return Version(number, signatures, flags, module)


def _warm_up(version: Version) -> None:
    """Answer an empty request with each signature: TensorFlow's first call takes longest."""
    for signature in version.signatures.values():
        if all(spec.shape.rank and spec.shape[0] is None for spec in signature.inputs.values()):
            signature(
                {
                    name: np.zeros([0, *spec.shape[1:]], spec.dtype.as_numpy_dtype)
                    for name, spec in signature.inputs.items()
                }
            )
