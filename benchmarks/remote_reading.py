"""Reading from a slow and flaky bucket: python -m benchmarks.remote_reading --help.

Serves generated shards as Google Cloud Storage does, with a latency per request and a rate per
stream, and reads them through the trainer's input pipeline with more and more readers. Throughput
grows until "cores", those that this process and the servers keep busy, are all of the machine's.
In a last pass, some requests fail and some stall, and the batches must be the same.
"""

import hashlib
import multiprocessing
import os
import random
import resource
import sys
import time
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

from benchmarks.data import data_flags
from trainer.common import console
from trainer.common.command_line import flag, parse
from trainer.common.errors import without_traceback

_PART = 1 << 18  # bytes between two pauses of a stream


@dataclass(frozen=True)
class RemoteReadingBenchmark:
    """Compare the throughput of the input pipeline by its number of readers."""

    latency: float = flag(0.03, "Seconds before a response begins.", "Server")
    rate: float = flag(60.0, "Megabytes per second of a stream.", "Server")
    error_rate: float = flag(0.05, "Share of failing requests in the last pass.", "Server")
    stall_rate: float = flag(0.01, "Share of stalling requests in the last pass.", "Server")
    stall_seconds: float = flag(30.0, "Length of a stall.", "Server")
    num_readers: str = flag("1,2,4,8", "Numbers of readers, comma-separated.", "Benchmark")
    frame_features: bool = flag(False, "Read frame-level shards.", "Benchmark")
    repeat: int = flag(4, "How often each shard is read in a pass.", "Benchmark")


def serve(folder: str, config: RemoteReadingBenchmark, faults, port, cpu_seconds) -> None:
    """Serve the files of a folder as objects of the bucket "data", until the process is killed.

    Args:
        folder: the folder.
        config: the flags.
        faults: whether requests fail and stall.
        port: the port, which several processes share; 0 to choose one.
        cpu_seconds: where to count the process' CPU time.
    """
    rng = random.Random(0)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            name = unquote(urlsplit(self.path).path.rpartition("/o/")[2])
            if not (Path(folder) / name).is_file():
                self.send_error(404)
                return
            content = (Path(folder) / name).read_bytes()
            start = int((self.headers["Range"] or "bytes=0-").split("=")[1].split("-")[0])
            time.sleep(config.latency)
            if faults.value and rng.random() < config.error_rate:
                self.send_response(503)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            self.send_response(206 if start else 200)
            self.send_header("Content-Length", str(len(content) - start))
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
            self.end_headers()
            stalls = faults.value and rng.random() < config.stall_rate
            began = time.monotonic()
            for position in range(start, len(content), _PART):
                self.wfile.write(content[position : position + _PART])
                if stalls:
                    time.sleep(config.stall_seconds)
                    stalls = False
                behind = (position + _PART - start) / config.rate / 1e6
                time.sleep(max(behind - (time.monotonic() - began), 0))
            cpu_seconds.value = time.process_time()

        def log_message(self, *_):
            pass

    ThreadingHTTPServer.allow_reuse_port = True
    server = ThreadingHTTPServer(("localhost", port.value), Handler)
    server.handle_error = lambda *_: None  # the client gives a stalled request up
    port.value = server.server_address[1]
    server.serve_forever()


def read(files: list[str], record_format, num_readers: int) -> tuple[float, float, str]:
    """Return wall-clock and CPU seconds of a pass over the files, and a digest of the videos."""
    from trainer.data import input_pipeline

    wall, cpu, digest = time.perf_counter(), time.process_time(), hashlib.sha256()
    with input_pipeline.explained():
        for batch in input_pipeline.batches(files, record_format, 128, num_readers):
            digest.update(b"".join(batch["id"].numpy()))
    return time.perf_counter() - wall, time.process_time() - cpu, digest.hexdigest()


def main(argv: list[str]):
    """Run `python -m benchmarks.remote_reading`."""
    config = parse(RemoteReadingBenchmark, ["benchmarks.remote_reading", *argv[1:]])
    console.set_up()
    from trainer.config import TrainConfig

    model = "FrameLevelLogisticModel" if config.frame_features else "LogisticModel"
    train_config = TrainConfig(model=model, **data_flags(config.frame_features))
    folder = Path(train_config.train_data_pattern).parent
    shards = sorted(folder.glob("train*.tfrecord")) * config.repeat
    megabytes = sum(shard.stat().st_size for shard in shards) / 1e6
    context = multiprocessing.get_context("spawn")
    faults, port = context.Value("b", 0), context.Value("i", 0)
    server_cpu = [context.Value("d", 0) for _ in range(os.cpu_count())]
    for seconds in server_cpu:  # several processes: one is limited by its interpreter's lock
        arguments = str(folder), config, faults, port, seconds
        context.Process(target=serve, args=arguments, daemon=True).start()
        while not port.value:
            time.sleep(0.1)
    os.environ["STORAGE_EMULATOR_HOST"] = f"http://localhost:{port.value}"
    files = [f"gs://data/{shard.name}" for shard in shards]
    digests = {}
    print(f"{'readers':>10} {'MB/s':>8} {'CPU s':>8} {'streams':>8} {'cores':>8}")
    for number in map(int, config.num_readers.split(",")):
        before = sum(seconds.value for seconds in server_cpu)
        seconds, cpu, digests[number] = read(files, train_config.record_format, number)
        rate = megabytes / seconds
        cores = (cpu + sum(seconds.value for seconds in server_cpu) - before) / seconds
        streams = rate / config.rate
        print(f"{number:10} {rate:8.0f} {cpu:8.1f} {streams:8.1f} {cores:8.1f}", flush=True)
    faults.value = 1
    seconds, cpu, digest = read(files, train_config.record_format, number)
    print(f"{'faults':>10} {megabytes / seconds:8.0f} {cpu:8.1f}")
    print(f"{'the same videos in the same order' if digest == digests[number] else 'OTHER VIDEOS'}")
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    print(f"peak memory {memory:.2f} GB")
    if digest != digests[number]:
        raise SystemExit(1)


if __name__ == "__main__":
    with without_traceback():
        main(sys.argv)
