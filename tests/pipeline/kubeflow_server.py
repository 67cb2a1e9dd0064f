"""A stand-in for Kubeflow Pipelines' server: the part of its v2beta1 API that we use, over HTTP.

It keeps what it is sent in memory, refuses what it does not know, and misbehaves on demand.
"""

import email
import json
import re
import threading
import time
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

API = "/apis/v2beta1"
FIELDS = {
    "pipelines": {"name", "display_name", "description", "namespace"},
    "experiments": {"display_name", "description", "namespace"},
    "runs": {
        "display_name",
        "description",
        "experiment_id",
        "pipeline_version_reference",
        "runtime_config",
        "service_account",
    },
    "recurringruns": {
        "display_name",
        "description",
        "experiment_id",
        "pipeline_version_reference",
        "runtime_config",
        "service_account",
        "mode",
        "trigger",
        "no_catchup",
        "max_concurrency",
    },
}
ID = {
    "pipelines": "pipeline_id",
    "versions": "pipeline_version_id",
    "experiments": "experiment_id",
    "runs": "run_id",
    "recurringruns": "recurring_run_id",
}
IN_ANSWER = {"versions": "pipeline_versions", "recurringruns": "recurringRuns"}


class Refusal(Exception):
    """An answer that is not 200."""

    def __init__(self, status: int, message: str):
        super().__init__(message)
        self.status = status


class KubeflowServer:
    """The server, running while in its context.

    Attributes:
        items: Kind ("pipelines", "versions", "experiments", "runs", "recurringruns") -> id ->
            what it is, as in the API.
        requests: (method, path) of each request.
        multi_user: Whether it wants a namespace.
        token: If set, what must come along with each request.
        login: If set, requests without the token are sent to a login page rather than refused.
        faults: (method, regex of the path, what) of faults to come, each once. What: a status to
            answer with; "lost", to do as asked and hang up; a number of seconds, to take so long.
        script: What a run is like each time it is looked at: {"state": ..., "tasks": [...]}; the
            last stays.
        page_size: Most items in an answer.
        logs: Argo's node id -> the log of that pod.
    """

    def __init__(self):
        self.items = {kind: {} for kind in ID}
        self.requests = []
        self.multi_user = False
        self.token = ""
        self.login = False
        self.faults = []
        self.script = []
        self.page_size = 2
        self.logs = {}
        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("H", (_Handler,), {"app": self}))
        self._server.handle_error = lambda *_: None  # a client that has hung up
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self):
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_):
        self._server.shutdown()
        self._server.server_close()

    def only(self, kind: str) -> dict:
        """The one item of a kind."""
        (item,) = self.items[kind].values()
        return item

    def fault(self, method: str, path: str):
        """The next fault of such a request, or None."""
        with self._lock:
            for index, (of_method, of_path, what) in enumerate(self.faults):
                if of_method == method and re.search(of_path, path):
                    del self.faults[index]
                    return what
        return None

    def answer(self, method: str, path: str, query: dict, body) -> dict:
        """What to answer to a request."""
        with self._lock:
            for of_method, pattern, respond in self._routes():
                match = re.fullmatch(
                    pattern if pattern.startswith("/apis") else API + pattern, path
                )
                if match and of_method == method:
                    return respond(*match.groups(), query, body)
        raise Refusal(404, f"Not Found: {method} {path}")

    def _routes(self):
        kind = "(pipelines|experiments|runs|recurringruns)"
        return [
            ("GET", "/apis/v1alpha1/runs/([^/]+)/nodes/([^/]+)/log", self._log),
            ("GET", "/healthz", lambda q, b: {"multi_user": self.multi_user}),
            ("POST", "/pipelines/upload_version", self._upload_version),
            ("GET", "/pipelines/([^/]+)/versions", lambda i, q, b: self._list("versions", q, i)),
            ("POST", f"/{kind}", lambda k, q, b: self._create(k, b)),
            ("GET", f"/{kind}", lambda k, q, b: self._list(k, q)),
            ("GET", f"/{kind}/([^/:]+)", lambda k, i, q, b: self._get(k, i)),
            ("DELETE", f"/{kind}/([^/:]+)", lambda k, i, q, b: self._delete(k, i)),
            ("POST", "/recurringruns/([^/:]+):(enable|disable)", self._switch),
        ]

    def _create(self, kind: str, body: dict) -> dict:
        unknown = set(body) - FIELDS[kind]
        if unknown:
            raise Refusal(400, f"unknown field {unknown}")
        if kind in ("pipelines", "experiments"):
            self._refuse_twice(kind, body["display_name"])
        if kind == "pipelines" and not re.fullmatch(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?", body["name"]):
            raise Refusal(400, f"name {body['name']!r} is invalid")
        if kind in ("runs", "recurringruns"):
            self._check_references(body)
        if kind == "recurringruns":
            cron = body["trigger"]["cron_schedule"]["cron"]
            if len(cron.split()) != 6:
                raise Refusal(400, f"Expected 6 fields, found {len(cron.split())}: {cron}")
            body["max_concurrency"] = str(body["max_concurrency"])  # an int64 in JSON
            body["status"] = "ENABLED" if body["mode"] == "ENABLE" else "DISABLED"
        return self._put(kind, body)

    def _check_references(self, body: dict):
        version = body["pipeline_version_reference"]
        if version["pipeline_id"] not in self.items["pipelines"]:
            raise Refusal(404, "pipeline not found")
        if version.get("pipeline_version_id", None) not in (None, *self.items["versions"]):
            raise Refusal(404, "pipeline version not found")
        if body["experiment_id"] not in self.items["experiments"]:
            raise Refusal(404, "experiment not found")

    def _refuse_twice(self, kind: str, name: str, **where):
        for item in self.items[kind].values():
            if item["display_name"] == name and where.items() <= item.items():
                raise Refusal(409, f"Already exist error: the name {name} already exists")

    def _put(self, kind: str, body: dict) -> dict:
        number = sum(map(len, self.items.values()))
        made = {
            **body,
            ID[kind]: f"{kind}-{number}",
            "created_at": _time(number),
        }
        self.items[kind][made[ID[kind]]] = made
        return made

    def _upload_version(self, query: dict, body: dict) -> dict:
        if query["pipelineid"] not in self.items["pipelines"]:
            raise Refusal(404, "pipeline not found")
        where = {"pipeline_id": query["pipelineid"]}
        self._refuse_twice("versions", query["name"], **where)
        told = {"name": query["name"], "display_name": query["name"]}
        told["description"] = query.get("description", "")
        return self._put("versions", {**where, **told, **body})

    def _list(self, kind: str, query: dict, pipeline_id: str = "") -> dict:
        items = list(self.items[kind].values())
        if pipeline_id:
            items = [item for item in items if item["pipeline_id"] == pipeline_id]
        for name in ("namespace", "experiment_id"):
            if query.get(name):
                items = [item for item in items if item.get(name) == query[name]]
        if query.get("filter"):
            for predicate in json.loads(query["filter"])["predicates"]:
                key, operation = predicate["key"], predicate["operation"]
                allowed = {
                    "EQUALS": lambda p: [p["stringValue"]],
                    "IN": lambda p: p["stringValues"]["values"],
                }[operation](predicate)
                items = [item for item in items if item.get(key) in allowed]
        start = int(query.get("page_token") or 0)
        end = start + min(self.page_size, int(query.get("page_size", 10)))
        answer = {IN_ANSWER.get(kind, kind): items[start:end], "total_size": len(items)}
        return answer | ({"next_page_token": str(end)} if end < len(items) else {})

    def _get(self, kind: str, item_id: str) -> dict:
        if item_id not in self.items[kind]:
            raise Refusal(404, f"{item_id} not found")
        item = dict(self.items[kind][item_id])
        if kind == "runs" and self.script:
            now = self.script.pop(0) if len(self.script) > 1 else self.script[0]
            item["state"] = now["state"]
            item["run_details"] = {"task_details": now.get("tasks", [])}
        return item

    def _delete(self, kind: str, item_id: str) -> dict:
        if self.items[kind].pop(item_id, None) is None:
            raise Refusal(404, f"{item_id} not found")
        return {}

    def _log(self, run_id: str, node: str, query: dict, body) -> str:
        if node not in self.logs:
            raise Refusal(404, f"failed to read logs of {node}")
        return self.logs[node]

    def _switch(self, item_id: str, to: str, query: dict, body) -> dict:
        if item_id not in self.items["recurringruns"]:
            raise Refusal(404, f"{item_id} not found")
        self.items["recurringruns"][item_id]["status"] = f"{to.upper()}D"
        self.items["recurringruns"][item_id]["mode"] = to.upper()
        return {}


def _time(seconds: float) -> str:
    moment = datetime(2025, 1, 1, 12, tzinfo=UTC) + timedelta(seconds=seconds)
    return moment.isoformat().replace("+00:00", "Z")


def task(name: str, state: str, start: float = 0, end: float | None = None, **more) -> dict:
    """A task of a run, as the API tells of it; times in seconds since some moment."""
    times = {"start_time": _time(start)} | ({"end_time": _time(end)} if end is not None else {})
    return {"display_name": name, "task_id": name, "state": state, **times, **more}


class _Handler(BaseHTTPRequestHandler):
    app: KubeflowServer

    def do_GET(self):
        url = urlsplit(self.path)
        self.app.requests.append((self.command, url.path))
        length = int(self.headers.get("Content-Length") or 0)
        content = self.rfile.read(length)
        if url.path == "/login":
            return self._send(200, b"<html><title>Sign in | Dex</title></html>", "text/html")
        if self.app.token and self.headers.get("Authorization") != f"Bearer {self.app.token}":
            return self._refuse_stranger()
        fault = self.app.fault(self.command, url.path)
        if isinstance(fault, float):
            time.sleep(fault)
        if isinstance(fault, int):
            return self._send_json(fault, {"message": "out of order", "code": 13})
        try:
            query = {name: values[-1] for name, values in parse_qs(url.query).items()}
            answer = self.app.answer(self.command, url.path, query, self._body(content))
        except Refusal as refusal:
            return self._send_json(refusal.status, {"message": str(refusal)})
        if fault == "lost":
            return self.connection.close()
        if isinstance(answer, str):
            return self._send(200, answer.encode(), "text/plain; charset=utf-8")
        return self._send_json(200, answer)

    do_POST = do_DELETE = do_GET

    def _body(self, content: bytes):
        kind = self.headers.get("Content-Type", "")
        if kind.startswith("multipart/form-data"):
            message = email.message_from_bytes(f"Content-Type: {kind}\n\n".encode() + content)
            (part,) = message.get_payload()
            return {"text": part.get_payload(decode=True).decode()}
        return json.loads(content) if content else None

    def _refuse_stranger(self):
        if not self.app.login:
            return self._send_json(
                401, {"error": "Request header error: there is no user identity"}
            )
        self.send_response(302)
        self.send_header("Location", "/login")
        self.send_header("Set-Cookie", "state=do-not-print-this")
        self.send_header("Content-Length", "0")
        return self.end_headers()

    def _send_json(self, status: int, answer: dict):
        self._send(status, json.dumps(answer).encode(), "application/json")

    def _send(self, status: int, content: bytes, kind: str):
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_):
        pass
