"""Asks an image's registry whether the image is there, as a cluster does that pulls it."""

import re
from urllib.parse import urlencode

import docker.auth
import urllib3

from trainer.common.errors import UserError

# Of an image for one kind of machine, or for several; as Docker or as the OCI calls them.
MANIFESTS = ", ".join(
    f"application/vnd.{kind}+json"
    for kind in (
        "oci.image.manifest.v1",
        "oci.image.index.v1",
        "docker.distribution.manifest.v2",
        "docker.distribution.manifest.list.v2",
    )
)


def parts(image: str) -> tuple[str, str, str]:
    """Registry, repository, and tag or digest of an image's name.

    Raises:
        UserError: it names no registry.
    """
    host, slash, rest = image.partition("/")
    if not slash or not re.search(r"[.:]|^localhost$", host):
        raise UserError(
            f"{image} is on no registry, where a cluster could pull it from: make push "
            "REGISTRY=HOST/PROJECT/REPOSITORY, then make compile (or load it onto every node)."
        )
    repository, _, digest = rest.partition("@")
    repository, _, tag = repository.partition(":")
    return host, repository, digest or tag or "latest"


def check_pullable(image: str):
    """Raises UserError if the image cannot be pulled with the credentials of `docker login`."""
    host, repository, reference = parts(image)
    is_local = re.match(r"(localhost|127\.[\d.]+)(:|$)", host)  # which Docker trusts without TLS
    url = f"http{'' if is_local else 's'}://{host}/v2/{repository}/manifests/{reference}"
    http = urllib3.PoolManager(retries=urllib3.Retry(2, backoff_factor=0.5), timeout=20)
    headers = {"Accept": MANIFESTS}
    login = docker.auth.load_config().resolve_authconfig(host) or {}
    login = {key.lower(): value for key, value in login.items()}  # a helper writes Username
    try:
        answer = http.request("HEAD", url, headers=headers)
        if answer.status == 401:
            headers["Authorization"] = _authorization(http, answer.headers, login, repository)
            answer = http.request("HEAD", url, headers=headers)
    except urllib3.exceptions.HTTPError as error:
        raise UserError(f"The registry of {image} cannot be reached: {error}") from None
    if answer.status in (401, 403):
        raise UserError(f"{image}: the registry {host} does not let you in; docker login {host}")
    if answer.status == 404:
        raise UserError(f"{image} is not there; `make push` sends it.")
    if answer.status != 200:
        raise UserError(f"{image}: the registry {host} answers {answer.status} {answer.reason}.")


def _authorization(http, headers, login: dict, repository: str) -> str:
    """The header that a registry asks for: a login, or a token that it gives for one."""
    username, password = login.get("username", ""), login.get("password", "")
    basic = urllib3.make_headers(basic_auth=f"{username}:{password}") if username else {}
    challenge = headers.get("WWW-Authenticate", "")
    if not challenge.lower().startswith("bearer "):
        return basic.get("authorization", "")
    asked = dict(re.findall(r'(\w+)="([^"]*)"', challenge))
    realm = asked.get("realm", "")
    # The password goes to the realm, so it must not travel in plain text.
    url = urllib3.util.parse_url(realm)
    is_local = re.fullmatch(r"localhost|127\.[\d.]+", url.host or "")
    if not (url.host and (url.scheme == "https" or (url.scheme == "http" and is_local))):
        raise UserError(
            f"{repository}: its registry must name an https:// address that issues tokens; "
            f"it names {realm or 'none'!r}."
        )
    query = {"scope": f"repository:{repository}:pull"}
    query |= {"service": asked["service"]} if "service" in asked else {}
    answer = http.request("GET", f"{realm}?{urlencode(query)}", headers=basic)
    if answer.status != 200:
        return ""
    given = answer.json()
    return f"Bearer {given.get('token') or given.get('access_token')}"
