"""kfp's client of Kubeflow Pipelines, which waits no longer than a while and explains errors."""

import contextlib
import html
import json
import logging
import re
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from urllib.parse import quote

import kfp.client
import urllib3
from google.auth.exceptions import GoogleAuthError
from kfp.client.set_volume_credentials import ServiceAccountTokenVolumeCredentials
from kfp_server_api import ApiException
from kfp_server_api.rest import RESTClientObject

from pipeline.kubeflow.connection import ConnectionConfig
from pipeline.redaction import register_cookie, shorten
from trainer.common.errors import UserError

CONNECT_SECONDS = 10
ANSWER_SECONDS = 60
TRIES = 5
BACKOFF_SECONDS = 0.5  # doubled from try to try
TRANSIENT = (429, 500, 502, 503, 504)
PAGE_SIZE = 100

WEB_PAGE = (
    "answers with a web page where data was expected{}. Either one must be signed in to reach it: "
    "give a token, a cookie or an IAP client (--help lists them), or a newer one if you did. Or "
    "the address lacks a path: within Kubeflow's dashboard it ends with /pipeline."
)


class WebPage(Exception):
    """A web page, such as that of a login, came for an answer."""


class _Transport(RESTClientObject):
    """Requests that have a time limit, and that take no web page for an answer."""

    def request(self, method, url, **how):
        for name, value in (how.get("headers") or {}).items():
            if name.lower() in ("authorization", "cookie"):  # the server may echo it
                register_cookie(value.removeprefix("Bearer "))
        how["_request_timeout"] = how.get("_request_timeout") or (CONNECT_SECONDS, ANSWER_SECONDS)
        try:
            response = super().request(method, url, **how)
        except ApiException as error:
            if _is_page(error.headers or {}) and error.status < 500:
                raise WebPage(_title(error.body)) from None
            error.body = error.body or b""  # its client decodes it, whatever it is
            raise
        if _is_page(response.getheaders()):
            raise WebPage(_title(response.data))
        return response


def _is_page(headers) -> bool:
    return "html" in (headers.get("Content-Type") or "").lower()


def _title(page: bytes) -> str:
    """What the page says it is."""
    match = re.search(r"<title[^>]*>(.*?)</title>", page.decode(errors="replace"), re.S | re.I)
    title = shorten(" ".join(html.unescape(match[1]).split()), 80) if match else ""
    return f', of the title "{title}"' if title else ""


def connect(connection: ConnectionConfig) -> kfp.client.Client:
    """The client. Nothing is sent yet, but where a token must be fetched."""
    logging.getLogger("urllib3").setLevel(logging.ERROR)  # it tells of each new try
    if connection.insecure:
        print("warning: the host's certificate is not checked.", file=sys.stderr)
        urllib3.disable_warnings(urllib3.exceptions.InsecureRequestWarning)
    token_file = connection.token_file
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it is not for the first version of Kubeflow
        client = kfp.client.Client(
            host=connection.host,
            # Any name keeps it from asking the server, without end, and from writing to the home
            # folder. The one that counts is given with each request.
            namespace=connection.namespace or "unset",
            existing_token=connection.token.get_secret_value() or None,
            credentials=ServiceAccountTokenVolumeCredentials(token_file) if token_file else None,
            cookies=connection.cookie.get_secret_value() or None,
            client_id=connection.iap_client_id or None,
            other_client_id=connection.iap_app_client_id or None,
            other_client_secret=connection.iap_app_client_secret.get_secret_value() or None,
            ssl_ca_cert=connection.ca_file or None,
            verify_ssl=not connection.insecure,
        )
    api_client = client._run_api.api_client  # the one that all its parts share
    api_client.configuration.retries = urllib3.Retry(
        total=TRIES - 1,
        backoff_factor=BACKOFF_SECONDS,
        status_forcelist=TRANSIENT,
        allowed_methods=("GET", "DELETE"),  # of others only when there was no connection
        raise_on_status=False,
    )
    api_client.rest_client = _Transport(api_client.configuration)
    return client


def renew(client: kfp.client.Client, connection: ConnectionConfig):
    """Lets the client go on with a new token, where tokens are fetched."""
    fresh = connect(connection)._run_api.api_client.configuration
    client._run_api.api_client.configuration.api_key = fresh.api_key


@contextlib.contextmanager
def explained(connection: ConnectionConfig) -> Iterator[None]:
    """Raise what may go wrong between us and the server as a UserError."""
    try:
        yield
    except (ApiException, urllib3.exceptions.HTTPError, GoogleAuthError, WebPage) as error:
        raise UserError(reason(connection, error)) from None


def reason(connection: ConnectionConfig, error: Exception) -> str:
    """What went wrong, and what to do about it."""
    host = connection.host
    if isinstance(error, WebPage):
        return f"{host} {WEB_PAGE.format(error)}"
    if isinstance(error, GoogleAuthError):
        return f"No token could be had from Google to be let in to {host}: {error}"
    if isinstance(error, ApiException):
        return _reason_of_status(connection, error)
    cause = getattr(error, "reason", None) or error  # what ended the last try
    if isinstance(cause, urllib3.exceptions.SSLError):
        return (
            f"The certificate of {host} cannot be trusted: {cause}. Give --ca_file=FILE, the "
            "certificate of its authority."
        )
    new_connection = urllib3.exceptions.NewConnectionError  # a TimeoutError too, for the past
    if isinstance(cause, urllib3.exceptions.TimeoutError) and not isinstance(cause, new_connection):
        return f"{host} did not answer in time: {_plain(cause)}."
    return f"{host} cannot be reached: {_plain(cause)}."


def _reason_of_status(connection: ConnectionConfig, error: ApiException) -> str:
    host, said = connection.host, _message(error)
    if error.status == 401:
        given = connection.token or connection.token_file or connection.cookie
        hint = "has what you gave expired?" if given else "give a token, a cookie or an IAP client."
        return f"{host} lets nobody in without signing in (401); {hint}{said}"
    if error.status == 403:
        return f"You may not do that at {host} (403). Is it your namespace?{said}"
    if error.status in TRANSIENT:
        return f"{host} has a fault ({error.status}), for {TRIES} tries by now.{said}"
    return f"{host} refused ({error.status} {error.reason}).{said}"


def _message(error: ApiException) -> str:
    """What the server said beside the status: its first words, of an error that may be long."""
    body = error.body.decode(errors="replace") if isinstance(error.body, bytes) else error.body
    # A proxy's answer may be no JSON, or no object: it is shown as it is.
    with contextlib.suppress(ValueError, AttributeError):
        answer = json.loads(body or "{}")
        body = answer.get("message") or answer.get("error") or answer.get("error_message") or ""
    text = " ".join(str(body).split())
    return f"\n  {shorten(text, 400)}" if text else ""


def _plain(error: Exception) -> str:
    """urllib3's message, without the object that it begins with."""
    return re.sub(r"^.*?(HTTPS?Connection(Pool)?\(.*?\)|object at \w+>):\s*", "", str(error))


def ensure(find: Callable, create: Callable, look_first: bool = True) -> tuple:
    """What is there already, else what `create` makes, and whether it was made.

    When an answer to `create` gets lost, or somebody else was quicker, it looks again before it
    tries again: nothing is made twice.

    Args:
        find: Returns the thing, or None.
        create: Makes it and returns it.
        look_first: False: of a thing that is new for sure.
    """
    for attempt in range(TRIES):
        found = find() if look_first or attempt else None
        if found is not None:
            return found, attempt > 0
        try:
            return create(), True
        except (ApiException, urllib3.exceptions.HTTPError) as error:
            lasting = isinstance(error, ApiException) and error.status not in (409, *TRANSIENT)
            if lasting or attempt == TRIES - 1:
                raise
        time.sleep(BACKOFF_SECONDS * 2**attempt)


def every(list_page: Callable, items: str, **query) -> Iterator:
    """The items of all pages.

    Args:
        list_page: A method of the client that lists things.
        items: The name of the things in its answer.
        query: What else to ask it for.
    """
    token = ""
    while True:
        answer = list_page(page_token=token, page_size=PAGE_SIZE, **query)
        yield from getattr(answer, items) or []
        token = answer.next_page_token
        if not token:
            return


def named(list_page: Callable, items: str, name: str, **query):
    """The oldest item of this name, or None."""
    equals = {"operation": "EQUALS", "key": "display_name", "stringValue": name}
    found = every(list_page, items, filter=json.dumps({"predicates": [equals]}), **query)
    # The server's word on names is not relied on.
    matching = [item for item in found if item.display_name == name]
    return min(matching, key=lambda item: str(item.created_at), default=None)


def in_namespace(connection: ConnectionConfig) -> dict[str, str]:
    """The namespace as an argument of a request, where there is one."""
    return {"namespace": connection.namespace} if connection.namespace else {}


def run_link(connection: ConnectionConfig, run_id: str) -> str:
    """Address of a run's page."""
    return f"{_ui(connection)}/#/runs/details/{quote(run_id)}"


def version_link(connection: ConnectionConfig, pipeline_id: str, version_id: str) -> str:
    """Address of a pipeline's graph."""
    return f"{_ui(connection)}/#/pipelines/details/{quote(pipeline_id)}/version/{quote(version_id)}"


def _ui(connection: ConnectionConfig) -> str:
    return connection.ui_host or connection.host
