"""Load test of the model server: python -m benchmarks.serving

Starts a server on this machine with a model of random weights, sends requests of 1 and of 64 videos
from several connections, and prints requests per second and the latency's percentiles; beside
them those of calling the SavedModel directly, in one process, with the same records.
"""

import argparse
import base64
import http.client
import json
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks.validation import video_records
from pipeline.paths import ROOT

BATCH_SIZES = (1, 64)
PERCENTILES = (50, 90, 99)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="LogisticModel")
    parser.add_argument("--seconds", type=float, default=10, help="Duration of each measurement.")
    parser.add_argument("--connections", type=int, default=4)
    flags = parser.parse_args()
    records = list(video_records(max(BATCH_SIZES)))
    with tempfile.TemporaryDirectory() as folder:
        served = Path(folder, "served")
        _export(flags.model, folder, served / "1")
        print(f"{flags.model}, {flags.connections} connections; latency in milliseconds")
        print(f"{'':<24}{'videos':>7}{'requests/s':>12}{'videos/s':>10}", end="")
        print("".join(f"{f'p{p}':>9}" for p in PERCENTILES))
        with _Server(served) as port:
            for size in BATCH_SIZES:
                make = _request_maker(port, records[:size])
                _print("HTTP", size, *_measure(make, flags.connections, flags.seconds))
        for size in BATCH_SIZES:
            make = partial(_direct_call, served / "1", records[:size])
            _print("SavedModel in process", size, *_measure(make, 1, flags.seconds))


def _export(name: str, folder: str, output: Path) -> None:
    from benchmarks.prediction import random_model
    from trainer.serving import saved_model

    output.parent.mkdir()
    saved_model.export(random_model(name, f"{folder}/model"), str(output))


class _Server:
    """A server on this machine, as a context manager that returns its port."""

    def __init__(self, served: Path):
        with socket.socket() as listener:
            listener.bind(("localhost", 0))
            self.port = listener.getsockname()[1]
        self.command = [sys.executable, "-m", "trainer.serving.server", f"--served_dir={served}"]
        self.command += [f"--port={self.port}"]

    def __enter__(self) -> int:
        self.process = subprocess.Popen(self.command, cwd=ROOT, stderr=subprocess.DEVNULL)
        while True:
            try:
                connection = http.client.HTTPConnection("localhost", self.port)
                connection.request("GET", "/v2/models/yt8m/ready")
                if connection.getresponse().status == 200:
                    return self.port
            except OSError:
                if self.process.poll() is not None:
                    raise RuntimeError("The server did not start.") from None
            time.sleep(0.2)

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait()


def _request_maker(port: int, records: list[bytes]) -> Callable:
    """Return a function that opens a connection and returns one that sends a request on it."""
    instances = [{"b64": base64.b64encode(record).decode()} for record in records]
    body = json.dumps({"instances": instances})

    def connect() -> Callable:
        connection = http.client.HTTPConnection("localhost", port)

        def send():
            headers = {"Content-Type": "application/json"}
            connection.request("POST", "/v1/models/yt8m:predict", body, headers)
            response = connection.getresponse()
            if len(json.loads(response.read())["predictions"]) != len(records):
                raise RuntimeError(f"The server answered with {response.status}.")

        return send

    return connect


def _direct_call(folder: Path, records: list[bytes]) -> Callable:
    import tensorflow as tf

    module = tf.saved_model.load(str(folder))
    examples = tf.constant(records)

    def call():
        module.signatures["serving_default"](examples=examples)["scores"].numpy()

    return call


def _measure(connect: Callable, num_threads: int, seconds: float) -> tuple[float, np.ndarray]:
    """Return requests per second, and the latencies in seconds."""
    latencies: list[float] = []

    def work(send: Callable, until: float):
        while (started := time.perf_counter()) < until:
            send()
            latencies.append(time.perf_counter() - started)

    senders = [connect() for _ in range(num_threads)]
    for send in senders:  # warm up
        send()
    started = time.perf_counter()
    threads = [threading.Thread(target=work, args=(s, started + seconds)) for s in senders]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return len(latencies) / (time.perf_counter() - started), np.array(latencies)


def _print(title: str, size: int, rate: float, latencies: np.ndarray) -> None:
    print(f"{title:<24}{size:>7}{rate:>12,.1f}{rate * size:>10,.0f}", end="")
    print("".join(f"{1000 * np.percentile(latencies, p):>9.1f}" for p in PERCENTILES), flush=True)


if __name__ == "__main__":
    main()
