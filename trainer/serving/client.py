"""Command: python -m trainer.serving.client --url=... --input_data_pattern=...

An example of a client. It sends records to a model server in TensorFlow Serving's REST form, which
yt8m-serving, KServe and TensorFlow Serving understand, and prints the best class of each video.
"""

import base64
import json
import sys
import urllib.error
import urllib.request
from dataclasses import dataclass
from itertools import islice

from trainer.common import storage
from trainer.common.command_line import flag, parse
from trainer.common.errors import UserError, without_traceback
from trainer.data.tfrecord import read_records

TIMEOUT_SECONDS = 60


@dataclass(frozen=True)
class ClientConfig:
    """Print the best class of each video, according to a model server."""

    url: str = flag("http://localhost:8080", "Address of the server.", "Server")
    name: str = flag("yt8m", "Name of the model.", "Server")
    input_data_pattern: str | None = flag(
        None, "File glob(s) for the videos, comma-separated.", "Files"
    )
    batch_size: int = flag(64, "Videos per request.", "Server")

    def __post_init__(self):
        if not self.input_data_pattern:
            raise UserError("--input_data_pattern must be given: a glob of the shards to predict.")
        if self.batch_size < 1:
            raise UserError(f"--batch_size must be at least 1; got {self.batch_size}.")


def predict(url: str, name: str, records: list[bytes]) -> list[dict]:
    """Return the predictions for serialized records, one dict per record.

    Args:
        url: Address of the server, e.g. http://localhost:8080.
        name: Name of the model.
        records: Serialized tf.Examples or tf.SequenceExamples.

    Raises:
        UserError: The server cannot be reached, or refuses the request.
    """
    instances = [{"examples": {"b64": base64.b64encode(record).decode()}} for record in records]
    request = urllib.request.Request(
        f"{url}/v1/models/{name}:predict",
        json.dumps({"instances": instances}).encode(),
        {"Content-Type": "application/json"},
    )
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as response:
            return json.load(response)["predictions"]
    except urllib.error.HTTPError as error:
        raise UserError(f"{request.full_url}: {error}: {error.read().decode()}") from None
    except OSError as error:
        raise UserError(f"Cannot reach {request.full_url}: {error}.") from None


def main(argv: list[str]):
    """Run the command."""
    with without_traceback():
        config = parse(ClientConfig, argv)
        for file in storage.glob(config.input_data_pattern):
            records = read_records(file)
            while batch := list(islice(records, config.batch_size)):
                for video in predict(config.url, config.name, batch):
                    score, name = video["scores"][0], video["names"][0]
                    print(f"{video['video_id']}  {score:.3f}  {name}")


if __name__ == "__main__":
    main(sys.argv)
