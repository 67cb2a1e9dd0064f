"""kfp's client of Kubeflow Pipelines, with timeouts, retries and clear errors.

kfp's client has no timeout, retries no request, and shows tracebacks for errors of the server.
"""

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
from pipeline.redaction import register_credentials, shorten
from trainer.common.errors import UserError

CONNECT_SECONDS = 10
ANSWER_SECONDS = 60
TRIES = 5
BACKOFF_SECONDS = 0.5  # doubled from try to try
TRANSIENT = (429, 500, 502, 503, 504)
PAGE_SIZE = 100

WEB_PAGE = (
    "answers with a web page instead of data{}. Either it requires authentication: give a token, a "
    "cookie or an IAP client (see --help), or a newer one if it has expired. Or the path is "
    "missing from the address: behind Kubeflow's dashboard it ends with /pipeline."
)


class WebPage(Exception):
    """The server answered with a web page, e.g. a login page."""


class _Transport(RESTClientObject):
    """Transport with a timeout, which raises WebPage for an HTML answer."""

    def request(self, method, url, **how):
        for name, value in (how.get("headers") or {}).items():
            if name.lower() in ("authorization", "cookie"):  # the server may echo it
                register_credentials(value.removeprefix("Bearer "))
        how["_request_timeout"] = how.get("_request_timeout") or (CONNECT_SECONDS, ANSWER_SECONDS)
        try:
            response = super().request(method, url, **how)
        except ApiException as error:
            if _is_page(error.headers or {}) and error.status < 500:
                raise WebPage(_title(error.body)) from None
            error.body = error.body or b""  # kfp_server_api decodes it
            raise
        if _is_page(response.getheaders()):
            raise WebPage(_title(response.data))
        return response


def _is_page(headers) -> bool:
    return "html" in (headers.get("Content-Type") or "").lower()


def _title(page: bytes) -> str:
    """Return the title of a page, in words for an error message."""
    match = re.search(r"<title[^>]*>(.*?)</title>", page.decode(errors="replace"), re.S | re.I)
    title = shorten(" ".join(html.unescape(match[1]).split()), 80) if match else ""
    return f', titled "{title}"' if title else ""


def connect(connection: ConnectionConfig) -> kfp.client.Client:
    """Return a client. No request is sent, except to fetch a token for IAP."""
    logging.getLogger("urllib3").setLevel(logging.ERROR)  # It warns about each retry.
    if connection.insecure:
        print("warning: the host's certificate is not verified.", file=sys.stderr)
        urllib3.disable_warnings(urllib3.exceptions.InsecureRequestWarning)
    token_file = connection.token_file
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it does not support Kubeflow 1.0
        client = kfp.client.Client(
            host=connection.host,
            # With a namespace, kfp sends no request here, which would have no timeout, and writes
            # nothing to the home folder. Each request gives the real namespace.
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
    api_client = client._run_api.api_client  # shared by all APIs
    api_client.configuration.retries = urllib3.Retry(
        total=TRIES - 1,
        backoff_factor=BACKOFF_SECONDS,
        status_forcelist=TRANSIENT,
        allowed_methods=("GET", "DELETE"),  # others only if there was no connection
        raise_on_status=False,
    )
    api_client.rest_client = _Transport(api_client.configuration)
    return client


def renew(client: kfp.client.Client, connection: ConnectionConfig):
    """Fetch a new token for a client that authenticates to IAP."""
    fresh = connect(connection)._run_api.api_client.configuration
    client._run_api.api_client.configuration.api_key = fresh.api_key


@contextlib.contextmanager
def explained(connection: ConnectionConfig) -> Iterator[None]:
    """Raise the errors of requests to the server as UserError."""
    try:
        yield
    except (ApiException, urllib3.exceptions.HTTPError, GoogleAuthError, WebPage) as error:
        raise UserError(reason(connection, error)) from None


def reason(connection: ConnectionConfig, error: Exception) -> str:
    """Return what went wrong, and what to do about it."""
    host = connection.host
    if isinstance(error, WebPage):
        return f"{host} {WEB_PAGE.format(error)}"
    if isinstance(error, GoogleAuthError):
        return f"Google issued no token for {host}: {error}"
    if isinstance(error, ApiException):
        return _reason_of_status(connection, error)
    cause = getattr(error, "reason", None) or error  # the error of the last attempt
    if isinstance(cause, urllib3.exceptions.SSLError):
        return (
            f"The certificate of {host} cannot be verified: {cause}. Give --ca-file=FILE, the "
            "certificate of its authority."
        )
    new_connection = urllib3.exceptions.NewConnectionError  # a subclass of TimeoutError
    if isinstance(cause, urllib3.exceptions.TimeoutError) and not isinstance(cause, new_connection):
        return f"{host} did not answer in time: {_plain(cause)}."
    return f"{host} cannot be reached: {_plain(cause)}."


def _reason_of_status(connection: ConnectionConfig, error: ApiException) -> str:
    host, message = connection.host, _message(error)
    if error.status == 401:
        given = connection.token or connection.token_file or connection.cookie
        hint = "they may have expired." if given else "give a token, a cookie or an IAP client."
        return f"{host} requires valid credentials (401); {hint}{message}"
    if error.status == 403:
        return f"{host} denies permission (403). Check --namespace.{message}"
    if error.status in TRANSIENT:
        return f"{host} failed {TRIES} times ({error.status}).{message}"
    return f"{host} refused the request ({error.status} {error.reason}).{message}"


def _message(error: ApiException) -> str:
    """Return the start of the server's message."""
    body = error.body.decode(errors="replace") if isinstance(error.body, bytes) else error.body
    # The answer of a proxy may not be a JSON object. It is shown as it is.
    with contextlib.suppress(ValueError, AttributeError):
        answer = json.loads(body or "{}")
        body = answer.get("message") or answer.get("error") or answer.get("error_message") or ""
    text = " ".join(str(body).split())
    return f"\n  {shorten(text, 400)}" if text else ""


def _plain(error: Exception) -> str:
    """Return a message of urllib3 without the object at its start."""
    return re.sub(r"^.*?(HTTPS?Connection(Pool)?\(.*?\)|object at \w+>):\s*", "", str(error))


def ensure(find: Callable, create: Callable, look_first: bool = True) -> tuple:
    """Find a resource, or create it; return it and whether it was created.

    If the answer to `create` is lost, or another client creates the resource at the same time, it
    is looked for again before the next attempt, so that it is never created twice.

    Args:
        find: Returns the resource, or None.
        create: Creates and returns the resource.
        look_first: Whether the resource may exist before the first attempt.
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
    """Yield the items of all pages.

    Args:
        list_page: Method of the client that lists resources.
        items: Name of the resources in its answer.
        query: Further arguments of the method.
    """
    token = ""
    while True:
        answer = list_page(page_token=token, page_size=PAGE_SIZE, **query)
        yield from getattr(answer, items) or []
        token = answer.next_page_token
        if not token:
            return


def named(list_page: Callable, items: str, name: str, **query):
    """Return the oldest item of this name, or None."""
    equals = {"operation": "EQUALS", "key": "display_name", "stringValue": name}
    found = every(list_page, items, filter=json.dumps({"predicates": [equals]}), **query)
    # Do not rely on the server's filter.
    matching = [item for item in found if item.display_name == name]
    return min(matching, key=lambda item: str(item.created_at), default=None)


def in_namespace(connection: ConnectionConfig) -> dict[str, str]:
    """Return the namespace as an argument of a request, if there is one."""
    return {"namespace": connection.namespace} if connection.namespace else {}


def run_link(connection: ConnectionConfig, run_id: str) -> str:
    """Return the address of a run's page."""
    return f"{_ui(connection)}/#/runs/details/{quote(run_id)}"


def version_link(connection: ConnectionConfig, pipeline_id: str, version_id: str) -> str:
    """Return the address of a pipeline version's page."""
    return f"{_ui(connection)}/#/pipelines/details/{quote(pipeline_id)}/version/{quote(version_id)}"


def _ui(connection: ConnectionConfig) -> str:
    return connection.ui_host or connection.host
