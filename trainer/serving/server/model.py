"""The KServe model: answers requests with the champion of a served folder."""

import asyncio
import uuid
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import tensorflow as tf
from kserve import InferOutput, InferRequest, InferResponse, Model
from kserve.errors import InvalidInput
from kserve.utils.numpy_codec import from_np_dtype
from prometheus_client import Counter, Gauge

from trainer.common.errors import UserError
from trainer.serving.server.messages import decode_base64, read_inputs, texts, write_outputs
from trainer.serving.server.request_log import RequestLog
from trainer.serving.server.versions import Signature, Version, Versions

VERSION = Gauge("yt8m_model_version", "Version that answers requests.", ["model"])
VIDEOS = Counter("yt8m_videos", "Videos that were predicted.", ["model", "version"])
LOADS = Counter("yt8m_model_loads", "Versions that were loaded.", ["model"])
FAILED_LOADS = Counter("yt8m_model_load_failures", "Attempts to load a version.", ["model"])
LOG_ERRORS = Counter("yt8m_request_log_errors", "Files of inputs not written.", ["model"])


class ServedModel(Model):
    """Answers the Open Inference Protocol (v2) and TensorFlow Serving's REST form (v1).

    Args:
        name: Name of the model in the URLs.
        served_dir: The served folder; see `versions`.
        log_dir: Folder for a sample of the inputs. Empty: none is written.
        sample_rate: Fraction of the videos to log, 0 to 1.
        num_threads: Requests to compute at the same time.
    """

    def __init__(
        self,
        name: str,
        served_dir: str,
        log_dir: str = "",
        sample_rate: float = 0.01,
        num_threads: int = 2,
    ):
        super().__init__(name, return_response_headers=True)
        self.versions = Versions(served_dir, self._loaded)
        self.threads = ThreadPoolExecutor(num_threads, "predict")
        self.request_log = RequestLog(log_dir, sample_rate, self._log_failed)

    def load(self) -> bool:
        """Load the champion, if there is one."""
        self.versions.refresh()
        return self.ready

    def stop(self):
        """Stop watching for versions, and write the rest of the log."""
        self.versions.stop()
        self.request_log.close()

    def _loaded(self, version: Version | Exception) -> None:
        if isinstance(version, Exception):
            FAILED_LOADS.labels(self.name).inc()
            return
        LOADS.labels(self.name).inc()
        VERSION.labels(self.name).set(version.number)
        self.ready = True

    def _log_failed(self, error: UserError) -> None:
        LOG_ERRORS.labels(self.name).inc()

    async def predict(self, payload, headers=None, response_headers=None):
        """Answer a request: a dict of the v1 protocol, or an InferRequest."""
        version = self.versions.current  # until the end, even if a newer one is loaded meanwhile
        answer = _answer_v2 if isinstance(payload, InferRequest) else _answer_v1
        loop = asyncio.get_running_loop()
        if response_headers is not None:
            response_headers["model-version"] = str(version.number)
        try:
            return await loop.run_in_executor(self.threads, answer, self, version, payload)
        except ValueError as error:
            raise InvalidInput(str(error)) from None
        except tf.errors.InvalidArgumentError as error:
            message = error.message.splitlines()[0]
            raise InvalidInput(f"The records cannot be parsed: {message}") from None

    def run(
        self, version: Version, signature: Signature, inputs: dict[str, np.ndarray]
    ) -> dict[str, np.ndarray]:
        """Return the outputs of a signature, and count and log the inputs."""
        outputs = signature(inputs)
        num_videos = len(next(iter(inputs.values())))
        VIDEOS.labels(self.name, str(version.number)).inc(num_videos)
        self.request_log.add(inputs, signature.takes_records, version.model_flags)
        return outputs


def _answer_v1(model: ServedModel, version: Version, body: dict) -> dict:
    name = body.get("signature_name", "") if isinstance(body, dict) else ""
    default = version.signature_for(name or "serving_default", set())
    inputs = read_inputs(body, default_input=next(iter(default.inputs)))
    outputs = model.run(version, version.signature_for(name, set(inputs)), inputs)
    return write_outputs(outputs, as_rows="instances" in body)


def _answer_v2(model: ServedModel, version: Version, request: InferRequest) -> InferResponse:
    inputs = {each.name: _array(each) for each in request.inputs}
    name = (request.parameters or {}).get("signature_name", "")
    outputs = model.run(version, version.signature_for(name, set(inputs)), inputs)
    return InferResponse(
        request.id or str(uuid.uuid4()),
        model.name,
        [_output(*item) for item in outputs.items()],
        str(version.number),
    )


def _array(given) -> np.ndarray:
    """Return an input of the v2 protocol; with {"content_type": "base64"}, texts are decoded."""
    array = given.as_numpy()
    if (given.parameters or {}).get("content_type") == "base64":
        decoded = [decode_base64(text) for text in array.ravel().tolist()]
        return np.array(decoded, dtype=object).reshape(array.shape)
    return array


def _output(name: str, values: np.ndarray) -> InferOutput:
    if values.dtype == object:
        flat = np.array(texts(values), dtype=object).ravel().tolist()
        return InferOutput(name, list(values.shape), "BYTES", flat)
    datatype = from_np_dtype(values.dtype)
    return InferOutput(name, list(values.shape), datatype, values.ravel().tolist())
