"""Settings of the connection to Kubeflow Pipelines: from options, the environment or a file."""

import tomllib
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, ClassVar

from pydantic import AfterValidator, ConfigDict, SecretStr, StrictBool, TypeAdapter, ValidationError

from pipeline.command_line import TARGET_GROUPS, option
from pipeline.redaction import register, register_credentials, register_url
from trainer.common.errors import UserError

FILE = "kubeflow.toml"

GROUP = TARGET_GROUPS["kubeflow"]

# pydantic's name of an error -> what was expected. The value is not shown: it may be a secret that
# was given in the wrong place.
EXPECTED = {
    "string_type": "must be a string",
    "bool_type": "must be true or false",
}


def _secret(secret: SecretStr) -> SecretStr:
    value = secret.get_secret_value().strip()
    register_credentials(value)
    if len(value.splitlines()) > 1:
        raise ValueError("must be one line; it holds a line break")
    return SecretStr(value)


def _address(url: str) -> str:
    register_url(url)
    url = url.split("#")[0].rstrip("/")  # as copied from a browser
    scheme, _, rest = url.partition("://")
    if url and scheme not in ("http", "https"):
        raise ValueError("must begin with http:// or https://")
    if "?" in rest or "@" in rest.partition("/")[0]:
        raise ValueError(
            "must have no user, password or query, which would not be sent. Give credentials as "
            "token, token_file or cookie"
        )
    return url


def _readable_file(path: str) -> str:
    try:
        if path:
            Path(path).read_bytes()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", "") or "not a path"
        raise ValueError(f"cannot be read: {reason}. It must be the path of a file") from None
    return path


def _token_file(path: str) -> str:
    token = Path(path).read_text(errors="replace").strip() if path else ""
    register(token)
    if len(token.splitlines()) > 1:
        raise ValueError("must hold one line, the token; it holds a line break")
    return path


Secret = Annotated[SecretStr, AfterValidator(_secret)]
Address = Annotated[str, AfterValidator(_address)]
ReadableFile = Annotated[str, AfterValidator(_readable_file)]
TokenFile = Annotated[ReadableFile, AfterValidator(_token_file)]


@dataclass(frozen=True, repr=False)
class ConnectionConfig:
    """Address of Kubeflow Pipelines, and credentials for it."""

    __pydantic_config__: ClassVar = ConfigDict(extra="forbid", str_strip_whitespace=True)

    # The environment variables are kfp's, where it has one.
    host: Address = option(
        "", "Address of the API, e.g. https://HOST/pipeline.", GROUP, "KF_PIPELINES_ENDPOINT"
    )
    ui_host: Address = option(
        "", "Address of the UI in links. Default: the host.", GROUP, "KF_PIPELINES_UI_ENDPOINT"
    )
    namespace: str = option(
        "", "Namespace of your profile, in a multi-user Kubeflow.", GROUP, "KF_PIPELINES_NAMESPACE"
    )
    token: Secret = option(
        SecretStr(""),
        "Bearer token. Other users of this machine can see options.",
        GROUP,
        "KF_PIPELINES_TOKEN",
    )
    token_file: TokenFile = option(
        "",
        "File with the bearer token, read before each request.",
        GROUP,
        "KF_PIPELINES_SA_TOKEN_PATH",
    )
    cookie: Secret = option(
        SecretStr(""),
        "Cookie of a browser session, e.g. oauth2_proxy_kubeflow=VALUE.",
        GROUP,
        "KF_PIPELINES_COOKIE",
    )
    iap_client_id: str = option(
        "",
        "OAuth client ID of Google's Identity-Aware Proxy (IAP).",
        GROUP,
        "KF_PIPELINES_IAP_OAUTH2_CLIENT_ID",
    )
    iap_app_client_id: str = option(
        "",
        "OAuth client ID of a desktop app, to sign in to IAP as a user.",
        GROUP,
        "KF_PIPELINES_APP_OAUTH2_CLIENT_ID",
    )
    iap_app_client_secret: Secret = option(
        SecretStr(""),
        "OAuth client secret of the desktop app.",
        GROUP,
        "KF_PIPELINES_APP_OAUTH2_CLIENT_SECRET",
    )
    ca_file: ReadableFile = option(
        "", "PEM file of the host's certificate authority.", GROUP, "KF_PIPELINES_CA_FILE"
    )
    insecure: StrictBool = option(
        False, "Do not verify the host's certificate.", GROUP, "KF_PIPELINES_INSECURE"
    )
    connection: str = option(
        "",
        f"TOML file of the settings above, e.g. host = '...'. Default: {FILE} in the current "
        "folder, if it exists. Options and environment variables take precedence.",
        GROUP,
    )


SETTINGS = [field.name for field in fields(ConnectionConfig) if field.name != "connection"]
_ADAPTER = TypeAdapter(ConnectionConfig)


def resolve(config: ConnectionConfig, host_required: bool = True) -> ConnectionConfig:
    """Return the connection's settings from options, the environment and the file.

    Args:
        config: Options of a command, which may have others too.
        host_required: Whether a missing host is an error.

    Raises:
        UserError: The file cannot be read, a setting is unknown or invalid, or there is no host.
    """
    file = Path(config.connection or FILE)
    in_file = _read(file) if config.connection or file.exists() else {}
    _validate(in_file, where=f"{file}: ")
    given = {name: getattr(config, name) for name in SETTINGS if getattr(config, name)}
    connection = _validate(in_file | given)
    if host_required and not connection.host:
        raise UserError(
            "The address of Kubeflow Pipelines is missing. Give --host=https://..., "
            f"$KF_PIPELINES_ENDPOINT, or host = '...' in {FILE}."
        )
    if connection.token and connection.token_file:
        raise UserError("Give a token or a token_file; got both.")
    return connection


def _validate(values: dict, where: str = "") -> ConnectionConfig:
    """Return validated settings; `where` is a prefix for errors."""
    try:
        return _ADAPTER.validate_python(values)
    except ValidationError as invalid:
        error = invalid.errors(include_input=False, include_url=False)[0]
    name = error["loc"][0]
    if name not in SETTINGS:
        raise UserError(f"{where}{name!r} is no setting. The settings are {', '.join(SETTINGS)}.")
    expected = EXPECTED.get(error["type"]) or error["msg"].removeprefix("Value error, ")
    raise UserError(f"{where}{name} {expected}.")


def _read(file: Path) -> dict:
    try:
        return tomllib.loads(file.read_text())
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UserError(f"The connection's file {file} cannot be read: {error}.") from None


def secret_free(connection: ConnectionConfig) -> dict[str, str]:
    """Return the settings that are set, with "(set)" for each secret."""
    shown = {}
    for name in SETTINGS:
        if value := getattr(connection, name):
            shown[name] = "(set)" if isinstance(value, SecretStr) else str(value)
    return shown
