"""A publisher whose connection to Cloud Storage is cut for good, at one byte or another."""

import contextlib
import os
import socket
import subprocess
import sys
import threading
from urllib.parse import urlparse

import pytest

from components.registry.registry import history, publish, read_champion, versions
from pipeline.paths import ROOT
from trainer.common import storage

NEVER = 1 << 60

PUBLISH = """
import sys
from components.registry.registry import publish
print(publish(*sys.argv[1:], "1"))
"""


class Proxy:
    """Forwards connections to a server, and kills a process after a number of bytes.

    Attributes:
        sent: Bytes that were forwarded to the server.
    """

    def __init__(self, server: str, cut_at: int):
        self.sent, self.cut_at, self.process = 0, cut_at, None
        self._lock = threading.Lock()
        self._server = urlparse(server)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self):
        self._listener.close()

    def _accept(self):
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = socket.create_connection((self._server.hostname, self._server.port))
            for pair in ((client, server, True), (server, client, False)):
                threading.Thread(target=self._forward, args=pair, daemon=True).start()

    def _forward(self, source, destination, to_server: bool):
        try:
            while data := source.recv(1 << 16):
                destination.sendall(self._allowed(data) if to_server else data)
        except OSError:
            pass
        for end in (source, destination):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def _allowed(self, data: bytes) -> bytes:
        with self._lock:
            allowed = data[: max(self.cut_at - self.sent, 0)]
            self.sent += len(data)
            if len(allowed) < len(data):
                self.process.kill()
        return allowed


def publish_through(proxy: Proxy, *arguments: str) -> int:
    """Publish in a new process through the proxy; return its exit code."""
    environment = os.environ | {"STORAGE_EMULATOR_HOST": proxy.url}
    command = [sys.executable, "-c", PUBLISH, *arguments]
    proxy.process = subprocess.Popen(command, cwd=ROOT, env=environment)
    code = proxy.process.wait()
    proxy.close()
    return code


def served_model(publish_dir: str) -> str:
    """The model that a server loads that starts now."""
    files = set(storage.files_below(f"{publish_dir}/served"))
    complete = [
        v for v in versions(publish_dir) if {f"{v}/saved_model.pb", f"{v}/manifest.json"} <= files
    ]
    return storage.read_text(f"{publish_dir}/served/{complete[-1]}/saved_model.pb")


@pytest.mark.parametrize("part", [0.02, 0.2, 0.4, 0.55, 0.7, 0.8, 0.85, 0.9, 0.95, 0.99])
def test_a_cut_connection_leaves_a_complete_model(exported, gcs_bucket, _gcs_server, part):
    total = _bytes_to_publish(exported, f"{gcs_bucket}/measured", _gcs_server)
    publish_dir = f"{gcs_bucket}/published"
    first, second = exported("a"), exported("b")
    publish(first[0], publish_dir, first[1], None)
    proxy = Proxy(_gcs_server, cut_at=int(total * part))
    assert publish_through(proxy, second[0], publish_dir, second[1]) == -9
    champion = read_champion(publish_dir)
    model = {"1": "a", "2": "b"}[champion.version]
    assert storage.read_text(f"{champion.path}/saved_model.pb") == model
    assert storage.read_text(f"{champion.path}/variables/variables.index") == model
    assert served_model(publish_dir) in {"1": "a", "2": "ab"}[champion.version]
    assert publish(second[0], publish_dir, second[1], "1") == "2"
    assert served_model(publish_dir) == "b"
    assert len(history(publish_dir)) == 2


_totals: list[int] = []


def _bytes_to_publish(exported, publish_dir: str, server: str) -> int:
    """Return how many bytes a publication sends to the server."""
    if not _totals:
        first, second = exported("x"), exported("y")
        publish(first[0], publish_dir, first[1], None)
        proxy = Proxy(server, NEVER)
        assert publish_through(proxy, second[0], publish_dir, second[1]) == 0
        _totals.append(proxy.sent)
    return _totals[0]
