"""A stand-in for Kubeflow Pipelines 2.17's server: the part of its API that we use, over HTTP.

It keeps what it is sent in memory, refuses what the real server refuses, and misbehaves on demand.
What it answers has the fields and oddities of the recorded answers in recorded/.
"""

import base64
import email
import json
import re
import threading
import time
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

from tests.pipeline.kubeflow_protocol import (
    Refusal,
    check_parameters,
    inputs_of,
    not_found,
    parse,
    upload_refusal,
)

API = "/apis/v2beta1"
ID = {
    "pipelines": "pipeline_id",
    "versions": "pipeline_version_id",
    "experiments": "experiment_id",
    "runs": "run_id",
    "recurringruns": "recurring_run_id",
}
IN_ANSWER = {"versions": "pipeline_versions", "recurringruns": "recurringRuns"}
FIELDS = {  # by which things are listed
    "display_name",
    "name",
    "created_at",
    "state",
    "recurring_run_id",
}
NEVER = "1970-01-01T00:00:00Z"  # of a run that has not ended
NO_TIME = "0001-01-01T00:00:00Z"  # of a task that has not ended


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
            answer with; a recorded answer; "lost", to do as asked and hang up; a number of seconds,
            to take so long.
        script: What a run is like each time it is looked at: {"state": ..., "tasks": [...]}, or a
            recorded run; the last stays.
        page_size: Most items in an answer.
        logs: Argo's node id -> the log of that pod.
        is_ui: Whether it is the UI, which does not pass on every path to the API.
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
        self.is_ui = False
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

    def answer(self, method: str, path: str, query: dict, content: bytes = b"") -> dict | str:
        """What to answer to a request."""
        with self._lock:
            for of_method, pattern, respond in self._routes():
                match = re.fullmatch(
                    pattern if pattern.startswith(("/apis", "/k8s")) else API + pattern, path
                )
                if match and of_method == method:
                    return respond(*match.groups(), query, content)
        raise Refusal(404, "Not Found")

    def _routes(self):
        kind = "(pipelines|experiments|runs|recurringruns)"
        return [
            ("GET", "/apis/v1alpha1/runs/([^/]+)/nodes/([^/]+)/log", self._log),
            ("GET", "/k8s/pod/logs", self._pod_log),
            ("GET", "/healthz", self._health),
            ("POST", "/pipelines/upload_version", self._upload_version),
            ("GET", "/pipelines/([^/]+)/versions", lambda i, q, b: self._list("versions", q, i)),
            ("POST", f"/{kind}", lambda k, q, b: self.create(k, parse(k, b))),
            ("GET", f"/{kind}", lambda k, q, b: self._list(k, q)),
            ("GET", f"/{kind}/([^/:]+)", lambda k, i, q, b: self._get(k, i)),
            ("DELETE", f"/{kind}/([^/:]+)", lambda k, i, q, b: self._delete(k, i)),
            ("POST", "/recurringruns/([^/:]+):(enable|disable)", self._switch),
        ]

    def _health(self, query: dict, content: bytes) -> dict:
        return {"commit_sha": "4a3592c", "tag_name": "2.17.0", "multi_user": self.multi_user}

    def create(self, kind: str, body: dict) -> dict:
        """Make a thing; what is sent has been parsed."""
        body = dict(body)
        if kind in ("pipelines", "experiments"):
            self._refuse_twice(kind, body["display_name"])
            if not self.multi_user:
                body.pop("namespace", None)  # ignored
        if kind == "pipelines":
            body.setdefault("name", body["display_name"])
        if kind == "runs":
            self._check_run(body)
            body |= {"storage_state": "AVAILABLE", "state": "PENDING", "finished_at": NEVER}
        if kind == "recurringruns":
            self._check_recurring_run(body)
            body["max_concurrency"] = str(body["max_concurrency"])
            body["status"] = "ENABLED" if body["mode"] == "ENABLE" else "DISABLED"
            body["namespace"] = "kubeflow"
        if kind in ("runs", "recurringruns") and not body.get("service_account"):
            body["service_account"] = "pipeline-runner"
        return self.put(kind, body)

    def _check_run(self, body: dict):
        version_id = body["pipeline_version_reference"].get("pipeline_version_id")
        if version_id not in self.items["versions"]:
            raise not_found(
                "Failed to create a new run: InternalServerError: Failed to create a run due to "
                "error fetching manifest: Failed to fetch a template due to error retrieving "
                "pipeline version: Failed to fetch a pipeline version and its manifest from "
                f"pipeline version {version_id}: Failed to get a pipeline version with id "
                f"{version_id}",
                "PipelineVersion",
                version_id,
                status=500,
            )
        self._check_experiment("a new run", "a run", body["experiment_id"])
        inputs = self.items["versions"][version_id]["inputs"]
        check_parameters(body.get("runtime_config", {}).get("parameters", {}), inputs)

    def _check_recurring_run(self, body: dict):
        if not 1 <= int(body["max_concurrency"]) <= 10:
            reason = "Max concurrency of a recurring run must be at least 1 and at most 10. "
            reason += f"Received {body['max_concurrency']}"
            how = "Failed to create a recurring run due to conversion error: Invalid input error"
            raise Refusal(400, f"{how}: {reason}", reason)
        self._check_experiment("a recurring run", "a recurring run", body["experiment_id"])
        reference = body["pipeline_version_reference"]
        if reference["pipeline_id"] not in self.items["pipelines"]:
            raise not_found(
                "Failed to create a recurring run: Failed to validate the input parameters on the "
                "latest pipeline version: Failed to get the latest template as pipeline was not "
                "found",
                "Pipeline",
                reference["pipeline_id"],
            )
        assert reference.get("pipeline_version_id", None) in (None, *self.items["versions"])

    def _check_experiment(self, what: str, again: str, item_id: str):
        if item_id not in self.items["experiments"]:
            raise not_found(
                f"Failed to create {what}: Failed to create {again} due to invalid experimentId "
                f"and namespace combination: Failed to fetch namespace for experiment {item_id}: "
                f"Failed to fetch namespace from experiment {item_id}",
                "Experiment",
                item_id,
            )

    def _refuse_twice(self, kind: str, name: str):
        if name not in [item["display_name"] for item in self.items[kind].values()]:
            return
        how, there = {
            "pipelines": (
                "a pipeline due to server error: Failed to create a pipeline in PipelineStore",
                "exist",
            ),
            "experiments": ("a experiment", "exists"),
        }[kind]
        reason = f"Failed to create a new {kind[:-1]}. The name {name} already {there}. "
        reason += "Please specify a new name"
        raise Refusal(409, f"Failed to create {how}: Already exist error: {reason}", reason)

    def put(self, kind: str, body: dict) -> dict:
        """Keep a thing under a new id."""
        number = sum(map(len, self.items.values()))
        made = {
            **body,
            ID[kind]: f"{number:08x}-0000-4000-8000-000000000000",
            "created_at": _time(number),
        }
        self.items[kind][made[ID[kind]]] = made
        return made

    def _upload_version(self, query: dict, content: bytes) -> dict:
        text = content.decode()
        inputs = inputs_of(text)
        if query["pipelineid"] not in self.items["pipelines"]:
            raise upload_refusal(400, "Failed to create a pipeline version")
        where = {"pipeline_id": query["pipelineid"]}
        for item in self.items["versions"].values():
            if item["display_name"] == query["name"] and where.items() <= item.items():
                raise upload_refusal(409, "Failed to create a pipeline version")
        told = {"name": query["name"], "display_name": query["name"]}
        told["description"] = query.get("description", "")
        return self.put("versions", {**where, **told, "text": text, "inputs": inputs})

    def _list(self, kind: str, query: dict, pipeline_id: str = "") -> dict:
        items = list(self.items[kind].values())
        if pipeline_id:
            items = [item for item in items if item["pipeline_id"] == pipeline_id]
        if self.multi_user and query.get("namespace"):
            items = [item for item in items if item.get("namespace") in (None, query["namespace"])]
        if query.get("experiment_id"):
            items = [i for i in items if i.get("experiment_id") == query["experiment_id"]]
        items = _sorted(_filtered(items, query.get("filter")), query.get("sort_by"))
        if not items:
            return {}
        start = int(base64.b64decode(query.get("page_token") or b"") or 0)
        end = start + min(self.page_size, int(query.get("page_size", 10)))
        answer = {IN_ANSWER.get(kind, kind): items[start:end], "total_size": len(items)}
        token = base64.b64encode(str(end).encode()).decode()
        return answer | ({"next_page_token": token} if end < len(items) else {})

    def _get(self, kind: str, item_id: str) -> dict:
        if item_id not in self.items[kind]:
            raise {
                "runs": lambda: not_found(
                    f"Failed to get a run: Failed to fetch run {item_id}", "Run", item_id
                ),
                "recurringruns": lambda: not_found(
                    "Failed to fetch a recurring run", "Job", item_id
                ),
                "experiments": lambda: not_found(
                    "Failed to fetch experiment", "Experiment", item_id
                ),
                "pipelines": lambda: not_found("Failed to get a pipeline", "Pipeline", item_id),
            }[kind]()
        item = self.items[kind][item_id]
        return self._progress(item) if kind == "runs" and self.script else item

    def _progress(self, run: dict) -> dict:
        """The run as its script says that it is now."""
        now = self.script.pop(0) if len(self.script) > 1 else self.script[0]
        if "run_id" in now:  # recorded
            return now | {"run_id": run["run_id"]}
        history = run.setdefault("state_history", [])
        if not history or history[-1]["state"] != now["state"]:
            history.append({"update_time": _time(len(history)), "state": now["state"]})
        return run | {
            "state": now["state"],
            "run_details": {"task_details": now.get("tasks", [])},
        }

    def _delete(self, kind: str, item_id: str) -> dict:
        if self.items[kind].pop(item_id, None) is None:
            raise not_found(
                f"Failed to delete a recurring run: Failed to delete recurring run {item_id}. "
                "Check if exists",
                "Job",
                item_id,
            )
        return {}

    def _log(self, run_id: str, node: str, query: dict, content: bytes) -> str:
        if node in self.logs:
            return self.logs[node]
        words = f"BadRequestError: Failed to read logs for run {run_id} due to run fetching error: "
        words += f"Failed to fetch run {run_id}: ResourceNotFoundError: Run {run_id} not found"
        # A success all the same.
        return json.dumps({"error_message": words, "error_details": words}, separators=(",", ":"))

    def _pod_log(self, query: dict, content: bytes) -> str:
        node = query["podname"].replace("-retry-system-container-impl", "")
        if not (self.is_ui and query["podnamespace"] == "kubeflow" and node in self.logs):
            raise Refusal(404, "Not Found")
        return self.logs[node]

    def _switch(self, item_id: str, to: str, query: dict, content: bytes) -> dict:
        if item_id not in self.items["recurringruns"]:
            raise not_found(
                "Failed to enable a recurring run: Failed to change recurring run's mode to "
                f"enable:{str(to == 'enable').lower()}. Check if recurring run {item_id} exists",
                "Job",
                item_id,
            )
        self.items["recurringruns"][item_id]["status"] = f"{to.upper()}D"
        self.items["recurringruns"][item_id]["mode"] = to.upper()
        return {}


def _filtered(items: list[dict], predicates: str | None) -> list[dict]:
    for predicate in json.loads(predicates)["predicates"] if predicates else ():
        key, operation = predicate["key"], predicate["operation"]
        if key not in FIELDS:
            reason = f'no support for filtering on unrecognized field "{key}"'
            how = "Failed to create list options: Invalid input error"
            raise Refusal(400, f"{how}: {reason}", reason)
        allowed = {
            "EQUALS": lambda p: [p["stringValue"]],
            "IN": lambda p: p["stringValues"]["values"],
        }[operation](predicate)
        items = [item for item in items if item.get(key) in allowed]
    return items


def _sorted(items: list[dict], by: str | None) -> list[dict]:
    field, _, order = (by or "created_at").partition(" ")
    if field not in FIELDS:
        reason = f'Invalid sorting field: "{field}" on listable type Run'
        how = "Failed to create list options: Invalid input error"
        raise Refusal(400, f"{how}: {reason}", reason)
    return sorted(items, key=lambda item: item.get(field, ""), reverse=order == "desc")


def _time(seconds: float) -> str:
    moment = datetime(2025, 1, 1, 12, tzinfo=UTC) + timedelta(seconds=seconds)
    return moment.isoformat().replace("+00:00", "Z")


def task(name: str, state: str, start: float = 0, end: float | None = None, **more) -> dict:
    """A task of a run, as the API tells of it; times in seconds since some moment."""
    times = {
        "create_time": _time(0),
        "start_time": _time(start),
        "end_time": NO_TIME if end is None else _time(end),
    }
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
        if self.app.is_ui and url.path.startswith("/apis/v1alpha1/"):
            return self._send(404, b"<!DOCTYPE html><title>Error</title>", "text/html")
        fault = self.app.fault(self.command, url.path)
        if isinstance(fault, float):
            time.sleep(fault)
        if isinstance(fault, int):
            return self._send_json(fault, {"message": "out of order", "code": 13})
        if isinstance(fault, dict):
            return self._send_json(fault["status"], fault["body"])
        try:
            query = {name: values[-1] for name, values in parse_qs(url.query).items()}
            answer = self.app.answer(self.command, url.path, query, self._content(content))
        except Refusal as refusal:
            return self._send_json(refusal.status, refusal.body)
        if fault == "lost":
            return self.connection.close()
        if isinstance(answer, str):
            return self._send(200, answer.encode(), "text/plain; charset=utf-8")
        return self._send_json(200, answer)

    do_POST = do_DELETE = do_GET

    def _content(self, content: bytes) -> bytes:
        """The body, or the one file in it."""
        kind = self.headers.get("Content-Type", "")
        if kind.startswith("multipart/form-data"):
            message = email.message_from_bytes(f"Content-Type: {kind}\n\n".encode() + content)
            (part,) = message.get_payload()
            return part.get_payload(decode=True)
        return content

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
