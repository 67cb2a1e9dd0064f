"""Where Kubeflow Pipelines is and how to be let in: from flags, the environment or a file."""

import contextlib
import os
import tomllib
from dataclasses import dataclass, fields
from pathlib import Path

from pipeline.command_line import TARGET_GROUPS
from trainer.common.command_line import flag
from trainer.common.errors import UserError

FILE = "kubeflow.toml"
GROUP = TARGET_GROUPS["kubeflow"]

# kfp's own names, where it has one.
ENVIRONMENT = {
    "host": "KF_PIPELINES_ENDPOINT",
    "ui_host": "KF_PIPELINES_UI_ENDPOINT",
    "namespace": "KF_PIPELINES_NAMESPACE",
    "token": "KF_PIPELINES_TOKEN",
    "token_file": "KF_PIPELINES_SA_TOKEN_PATH",
    "cookie": "KF_PIPELINES_COOKIE",
    "iap_client_id": "KF_PIPELINES_IAP_OAUTH2_CLIENT_ID",
    "iap_app_client_id": "KF_PIPELINES_APP_OAUTH2_CLIENT_ID",
    "iap_app_client_secret": "KF_PIPELINES_APP_OAUTH2_CLIENT_SECRET",
    "ca_file": "KF_PIPELINES_CA_FILE",
    "insecure": "KF_PIPELINES_INSECURE",
}
SECRETS = ("token", "cookie", "iap_app_client_secret")


def _setting(default, help: str, name: str):
    return flag(default, f"{help} {ENVIRONMENT[name]}", GROUP)


@dataclass(frozen=True, repr=False)  # it holds secrets
class ConnectionConfig:
    """Where Kubeflow Pipelines is, and how to be let in."""

    host: str = _setting("", "Its address, with the path, e.g. https://HOST/pipeline.", "host")
    ui_host: str = _setting("", "The address to show links to, if it is another.", "ui_host")
    namespace: str = _setting(
        "", "Your profile's namespace. Empty where Kubeflow has but one user.", "namespace"
    )
    token: str = _setting("", "A bearer token. Others on this machine can see flags.", "token")
    token_file: str = _setting("", "A file that holds it, read anew each time.", "token_file")
    cookie: str = _setting(
        "", "A cookie of a signed-in browser, e.g. oauth2_proxy_kubeflow=VALUE.", "cookie"
    )
    iap_client_id: str = _setting(
        "", "OAuth client of Google's Identity-Aware Proxy before it.", "iap_client_id"
    )
    iap_app_client_id: str = _setting(
        "", "OAuth client to sign in to that proxy as a person.", "iap_app_client_id"
    )
    iap_app_client_secret: str = _setting("", "Its secret.", "iap_app_client_secret")
    ca_file: str = _setting("", "PEM file of the authority that vouches for the host.", "ca_file")
    insecure: bool = _setting(False, "Do not check the host's certificate.", "insecure")
    connection: str = flag(
        "",
        f"TOML file of these settings, e.g. host = '...'. Default: {FILE} beside you, if it is "
        "there. Flags come before the environment, the environment before the file.",
        GROUP,
    )


def resolve(config: ConnectionConfig, host_required: bool = True) -> ConnectionConfig:
    """The settings alone, complete, from a command's config, which may have more.

    Raises:
        UserError: the file cannot be read or holds something else, a value is of no use, or there
            is no host.
    """
    from_file = _read(config.connection)
    values = {}
    for name, variable in ENVIRONMENT.items():
        given = getattr(config, name) or os.environ.get(variable, "") or from_file.get(name, "")
        values[name] = _boolean(given, name) if name == "insecure" else given.strip()
    _check(values, host_required)
    return ConnectionConfig(**values)


def without_secrets(connection: ConnectionConfig, text: str) -> str:
    """`text` with each of the connection's secrets crossed out, a token file's content too."""
    secrets = [getattr(connection, name) for name in SECRETS]
    if connection.token_file:
        with contextlib.suppress(OSError):  # removed since `resolve` read it
            secrets.append(
                Path(connection.token_file).read_bytes().decode(errors="replace").strip()
            )
    for secret in secrets:
        if len(secret) > 3:  # or it would be found within words
            text = text.replace(secret, "***")
    return text


def _read(path: str) -> dict:
    file = Path(path or FILE)
    if not path and not file.exists():
        return {}
    try:
        values = tomllib.loads(file.read_text())
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UserError(f"The connection's file {file} cannot be read: {error}.") from None
    for name, value in values.items():
        if name not in ENVIRONMENT:
            known = ", ".join(ENVIRONMENT)
            raise UserError(f"{file}: there is no setting {name!r}. There are {known}.")
        if not isinstance(value, bool if name == "insecure" else str):
            raise UserError(f"{file}: {name} must be {'a text' if name != 'insecure' else 'true'}.")
    return values


def _boolean(given, name: str) -> bool:
    if isinstance(given, bool):
        return given
    try:
        return {"true": True, "1": True, "false": False, "0": False, "": False}[given.lower()]
    except KeyError:
        raise UserError(f"${ENVIRONMENT[name]} must be true or false; got {given!r}.") from None


def _check(values: dict, host_required: bool):
    if host_required and not values["host"]:
        raise UserError(
            "Where is Kubeflow Pipelines? Give --host=https://..., "
            f"${ENVIRONMENT['host']}, or host = '...' in {FILE}."
        )
    for name in ("host", "ui_host"):
        if values[name] and not values[name].startswith(("http://", "https://")):
            raise UserError(f"{name} must begin with http:// or https://; got {values[name]!r}.")
        values[name] = values[name].split("#")[0].rstrip("/")  # as copied from a browser
    for name in ("token_file", "ca_file"):
        try:
            if values[name]:
                content = Path(values[name]).read_bytes().strip()
        except OSError as error:
            raise UserError(f"{name} cannot be read: {error}.") from None
        if name == "token_file" and values[name] and len(content.splitlines()) > 1:
            raise UserError("token_file must hold one line, the token; it holds a line break.")
    for name in SECRETS:
        if len(values[name].splitlines()) > 1:
            raise UserError(f"{name} must be one line; it holds a line break.")
    if values["token"] and values["token_file"]:
        raise UserError("Give a token or a token_file; got both.")


def secret_free(connection: ConnectionConfig) -> dict[str, str]:
    """The settings that are set, to show; of a secret only that there is one."""
    shown = {}
    for field in fields(ConnectionConfig):
        value = getattr(connection, field.name)
        if value:
            shown[field.name] = "(set)" if field.name in SECRETS else str(value)
    return shown
