import ipaddress
import ssl
from dataclasses import fields
from datetime import UTC, datetime, timedelta

import pytest
import typer
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from pipeline.command_line import add_command
from pipeline.kubeflow import client as kubeflow
from pipeline.kubeflow.connection import ConnectionConfig, resolve, secret_free
from trainer.common.errors import UserError


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch, tmp_path):
    for field in fields(ConnectionConfig):
        monkeypatch.delenv(str(field.metadata["envvar"]), raising=False)
    monkeypatch.chdir(tmp_path)


def connect(*options) -> ConnectionConfig:
    """Resolve the settings of a command line."""
    app, resolved = typer.Typer(), []
    add_command(app, "connect", ConnectionConfig, lambda config: resolved.append(resolve(config)))
    app(list(options), standalone_mode=False)
    return resolved[0]


def test_options_come_before_the_environment_and_that_before_the_file(monkeypatch, tmp_path):
    (tmp_path / "kubeflow.toml").write_text(
        'host = "https://file/pipeline/"\nnamespace = "file"\ncookie = "file"\ninsecure = true'
    )
    monkeypatch.setenv("KF_PIPELINES_NAMESPACE", "environment")
    monkeypatch.setenv("KF_PIPELINES_COOKIE", "environment")
    connection = connect("--cookie=flag")
    assert connection.host == "https://file/pipeline"
    assert connection.namespace == "environment"
    assert connection.cookie.get_secret_value() == "flag"
    assert connection.insecure is True


def test_empty_setting_is_not_set(monkeypatch):
    monkeypatch.setenv("KF_PIPELINES_TOKEN", "")  # as CI does with a secret that does not exist
    assert not connect("--host=http://h").token


def test_address_copied_from_a_browser_is_accepted():
    assert resolve(ConnectionConfig(host="https://h/pipeline/#/runs")).host == "https://h/pipeline"


def test_no_secret_is_shown():
    connection = connect(
        "--host=http://h", "--token=the-1", "--cookie=the-2", "--iap-app-client-secret=the-3"
    )
    assert "the-" not in f"{connection!r} {connection} {secret_free(connection)} {vars(connection)}"
    assert secret_free(connection)["token"] == "(set)"


@pytest.mark.parametrize(
    "text, message",
    [
        ('hots = "x"', r"kubeflow.toml: 'hots' is no setting. The settings are host, ui_host"),
        ("host = 1", "kubeflow.toml: host must be a string"),
        ("token = 1", "kubeflow.toml: token must be a string"),
        ('insecure = "yes"', "kubeflow.toml: insecure must be true or false"),
        ("host = ", "cannot be read"),
        ('host = "example.com"', "kubeflow.toml: host must begin with http:// or https://"),
        ("", "The address of Kubeflow Pipelines is missing"),
    ],
)
def test_mistake_in_the_file(tmp_path, text, message):
    (tmp_path / "kubeflow.toml").write_text(text)
    with pytest.raises(UserError, match=message):
        resolve(ConnectionConfig())


def test_missing_connection_file_is_an_error():
    with pytest.raises(UserError, match=r"file other\.toml cannot be read"):
        resolve(ConnectionConfig(connection="other.toml"))


def test_invalid_boolean_in_the_environment(monkeypatch):
    monkeypatch.setenv("KF_PIPELINES_INSECURE", "maybe")
    with pytest.raises(typer.BadParameter, match="valid boolean") as error:
        connect("--host=http://h")
    assert "--insecure" in error.value.format_message()


def health(**settings):
    connection = resolve(ConnectionConfig(**settings))
    with kubeflow.explained(connection):
        return kubeflow.connect(connection).healthzs.healthz_service_get_healthz()


@pytest.fixture
def tls(server, tmp_path):
    """The server behind TLS; the file of its certificate, which is its own authority."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test")])
    now = datetime.now(UTC)
    local = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    builder = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
    builder = builder.not_valid_before(now - timedelta(days=1)).not_valid_after(
        now + timedelta(days=1)
    )
    certificate = builder.add_extension(local, critical=False).sign(key, hashes.SHA256())
    pem = serialization.Encoding.PEM
    private = key.private_bytes(
        pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (tmp_path / "key.pem").write_bytes(private)
    (tmp_path / "ca.pem").write_bytes(certificate.public_bytes(pem))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "ca.pem", tmp_path / "key.pem")
    server._server.socket = context.wrap_socket(server._server.socket, server_side=True)
    server.url = server.url.replace("http:", "https:")
    return server.url


def test_certificate_is_verified(tls, capfd):
    with pytest.raises(UserError, match=r"certificate of .* cannot be verified: .*--ca-file"):
        health(host=tls)
    assert health(host=tls, ca_file="ca.pem").multi_user is False
    assert capfd.readouterr().err == ""
    assert health(host=tls, insecure=True).multi_user is False
    assert capfd.readouterr().err == "warning: the host's certificate is not verified.\n"


def test_token_for_iap_is_sent(server, monkeypatch):
    asked = []

    def token(*ids):
        asked.append(ids)
        return "token-of-google", False

    monkeypatch.setattr("kfp.client.auth.get_auth_token", token)
    server.token = "token-of-google"
    assert health(host=server.url, iap_client_id="client").multi_user is False
    assert asked == [("client", None, None)]


def test_token_file_is_read_before_each_request(server, tmp_path):
    (tmp_path / "token").write_text("first")
    connection = resolve(ConnectionConfig(host=server.url, token_file="token"))
    client = kubeflow.connect(connection)
    for token in ("first", "second"):
        (tmp_path / "token").write_text(token)
        server.token = token
        client.healthzs.healthz_service_get_healthz()


@pytest.mark.parametrize("name", ["token", "cookie", "token_file"])
def test_line_break_in_a_secret_is_refused_without_showing_it(name, tmp_path):
    value = "planted\nsecret"
    if name == "token_file":
        (tmp_path / "token").write_text(value)
        value = str(tmp_path / "token")
    with pytest.raises(UserError, match=f"{name} must .*line break") as error:
        resolve(ConnectionConfig(host="https://h", **{name: value}))
    assert "planted" not in str(error.value)
