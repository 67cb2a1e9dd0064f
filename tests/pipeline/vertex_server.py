"""A stand-in for Vertex AI's API: runs of pipelines, and their schedules, as JSON over HTTP.

What it is sent is parsed into the messages of google-cloud-aiplatform, whose unknown fields, wrong
values and missing fields it refuses.
"""

import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

from google.cloud.aiplatform_v1 import types
from google.protobuf import json_format

MESSAGES = {"pipelineJobs": types.PipelineJob, "schedules": types.Schedule}
REQUIRED = {
    "pipelineJobs": (
        "displayName",
        "pipelineSpec",
        "runtimeConfig.gcsOutputDirectory",
    ),
    "schedules": (
        "displayName",
        "cron",
        "maxConcurrentRunCount",
        "createPipelineJobRequest.parent",
        "createPipelineJobRequest.pipelineJob.runtimeConfig.gcsOutputDirectory",
    ),
}


class VertexServer:
    """The server, running while in its context.

    Attributes:
        items: Name -> run or schedule, as in the API.
        faults: (method, regex of the path, what) of faults to come, each once: a status, or "lost"
            to do as asked and answer 503.
        script: What a run is like each time it is looked at; the last stays.
    """

    def __init__(self):
        self.items = {}
        self.faults = []
        self.script = [{"state": "PIPELINE_STATE_SUCCEEDED"}]
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("H", (_Handler,), {"app": self}))
        self._server.handle_error = lambda *_: None  # a client that has hung up
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self):
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_):
        self._server.shutdown()
        self._server.server_close()

    def of_kind(self, kind: str) -> list[dict]:
        return [item for name, item in self.items.items() if f"/{kind}/" in name]

    def fault(self, method: str, path: str):
        for index, (of_method, of_path, _) in enumerate(self.faults):
            if of_method == method and re.search(of_path, path):
                return self.faults.pop(index)[2]
        return None

    def answer(self, method: str, path: str, query: dict, body) -> tuple[int, dict]:
        path = re.sub(r"^/v1(beta1)?/", "", path)
        name, _, verb = path.partition(":")
        kind = re.search(r"/(pipelineJobs|schedules)(/|$)", name)[1]
        if method == "POST" and not verb:
            return self._create(name, kind, query, body)
        if name.endswith(f"/{kind}"):
            wanted = re.search(r'display_name="(.*)"', query.get("filter", ""))
            items = self.of_kind(kind)
            return 200, {kind: [i for i in items if not wanted or i["displayName"] == wanted[1]]}
        if name not in self.items:
            return 404, {"error": {"message": f"{name} not found"}}
        if method == "DELETE":
            del self.items[name]
            return 200, {"name": f"{name}/operations/1", "done": True, "response": _EMPTY}
        if verb:
            self.items[name]["state"] = {"pause": "PAUSED", "resume": "ACTIVE"}[verb]
            self.items[name]["catchUp"] = (body or {}).get("catchUp", False)
            return 200, {}
        if kind == "pipelineJobs":
            now = self.script.pop(0) if len(self.script) > 1 else self.script[0]
            return 200, self.items[name] | now
        return 200, self.items[name]

    def _create(self, parent: str, kind: str, query: dict, body: dict) -> tuple[int, dict]:
        try:
            body = parse(kind, body)
        except (json_format.ParseError, KeyError) as error:
            return 400, {"error": {"message": str(error), "status": "INVALID_ARGUMENT"}}
        item_id = query.get("pipelineJobId") or str(1000 + len(self.items))
        name = f"{parent}/{item_id}"
        if name in self.items:
            return 409, {"error": {"message": f"{name} already exists", "status": "ALREADY_EXISTS"}}
        state = "PIPELINE_STATE_PENDING" if kind == "pipelineJobs" else "ACTIVE"
        self.items[name] = body | {"name": name, "state": state}
        return 200, self.items[name]


def parse(kind: str, body: dict) -> dict:
    """The body as a message of this kind, and back in JSON.

    Raises:
        ParseError: It has a field or a value that the message does not have.
        KeyError: A required field is missing.
    """
    message = json_format.ParseDict(body, MESSAGES[kind].pb(MESSAGES[kind]()))
    parsed = json_format.MessageToDict(message)
    for path in REQUIRED[kind]:
        value = parsed
        for name in path.split("."):
            if name not in value:
                raise KeyError(f"{path} is required")
            value = value[name]
    return parsed


_EMPTY = {"@type": "type.googleapis.com/google.protobuf.Empty"}


class _Handler(BaseHTTPRequestHandler):
    app: VertexServer

    def do_GET(self):
        url = urlsplit(self.path)
        content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        query = {name: values[-1] for name, values in parse_qs(url.query).items()}
        fault = self.app.fault(self.command, url.path)
        if isinstance(fault, int):
            return self._send(fault, {"error": {"message": "out of order"}})
        body = json.loads(content) if content else {}
        status, answer = self.app.answer(self.command, url.path, query, body)
        if fault == "lost":
            status, answer = 503, {"error": {"message": "lost"}}
        return self._send(status, answer)

    do_POST = do_DELETE = do_PATCH = do_GET

    def _send(self, status: int, answer: dict):
        content = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_):
        pass
