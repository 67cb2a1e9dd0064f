"""Look-up of an image in a registry by a Docker engine."""

import base64
import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import docker
import pytest

from pipeline.local import engine
from trainer.common.errors import UserError

KIND = "application/vnd.docker.distribution.manifest.v2+json"
CONFIG = {"mediaType": "application/vnd.docker.container.image.v1+json", "size": 2}
CONFIG["digest"] = f"sha256:{hashlib.sha256(b'{}').hexdigest()}"
MANIFEST = json.dumps({"schemaVersion": 2, "mediaType": KIND, "config": CONFIG, "layers": []})
DIGEST = f"sha256:{hashlib.sha256(MANIFEST.encode()).hexdigest()}"


class Registry(BaseHTTPRequestHandler):
    """A registry that gives its tokens for a login, and has one image."""

    def do_GET(self):
        if self.path.startswith("/token"):
            login = "Basic " + base64.b64encode(b"me:password").decode()
            allowed = self.headers.get("Authorization") == login
            return self.send(200, json.dumps({"token": "t" if allowed else "wrong"}))
        if self.headers.get("Authorization") != "Bearer t":
            challenge = f'Bearer realm="http://{self.headers["Host"]}/token",service="us"'
            return self.refuse(401, "UNAUTHORIZED", {"WWW-Authenticate": challenge})
        if self.path == "/v2/":
            return self.send(200, "{}")
        if self.path in (f"/v2/p/yt8m-data/manifests/{name}" for name in ("1", DIGEST)):
            return self.send(200, MANIFEST, {"Docker-Content-Digest": DIGEST}, KIND)
        if "/blobs/" in self.path:
            return self.send(200, "{}", {"Docker-Content-Digest": CONFIG["digest"]})
        return self.refuse(404, "MANIFEST_UNKNOWN", {})

    do_HEAD = do_GET

    def refuse(self, status, code, headers):
        body = json.dumps({"errors": [{"code": code, "message": code.lower()}]})
        self.send(status, body, headers)

    def send(self, status, body, headers=None, kind="application/json"):
        self.send_response(status)
        for name, value in {"Content-Type": kind, **(headers or {})}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body.encode())

    def log_message(self, *_):
        pass


@pytest.fixture
def registry(monkeypatch, tmp_path):
    """The registry's address; a login for it is in Docker's configuration."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Registry)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    address = f"127.0.0.1:{server.server_address[1]}"
    login = base64.b64encode(b"me:password").decode()
    (tmp_path / "config.json").write_text(json.dumps({"auths": {address: {"auth": login}}}))
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    yield address
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("reference", [":1", f"@{DIGEST}"])
def test_image_in_a_registry_with_a_login(docker_engine, registry, reference):
    engine.check_pullable(docker.from_env(), f"{registry}/p/yt8m-data{reference}")


def test_image_that_is_not_in_the_registry(docker_engine, registry):
    with pytest.raises(UserError, match=r"has no image .*yt8m-data:2: `make push` pushes it"):
        engine.check_pullable(docker.from_env(), f"{registry}/p/yt8m-data:2")


def test_registry_that_denies_access(docker_engine, registry, tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UserError, match=f"denies access to .*: docker login {registry}"):
        engine.check_pullable(docker.from_env(), f"{registry}/p/yt8m-data:1")


def test_registry_that_cannot_be_reached(docker_engine):
    with pytest.raises(UserError, match=r"127\.0\.0\.1:1 cannot be asked for .*refused"):
        engine.check_pullable(docker.from_env(), "127.0.0.1:1/p/yt8m-data:1")


def test_image_of_no_registry_cannot_be_pulled_by_a_cluster():
    for name in ("yt8m-data:0.1.0", "team/yt8m-data:0.1.0"):
        with pytest.raises(UserError, match=f"{name} names no registry"):
            engine.check_name(name)
    engine.check_name("host.test:5000/a/b")
