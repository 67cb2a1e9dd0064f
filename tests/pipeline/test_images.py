import io
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import pytest
import yaml

from components.generate_data import generate
from pipeline import images
from pipeline.compile import CompileConfig, compile_pipeline
from pipeline.local import engine
from pipeline.paths import ROOT
from pipeline.push import PushConfig, push
from tests.ports import free_port
from trainer.common.errors import UserError
from trainer.serving import saved_model

LOCKS = {path.stem: path for path in (ROOT / "docker").glob("*.txt")}
TINY = "tiny-for-tests"


def pins(lock: Path) -> dict[str, str]:
    """Package -> version."""
    return dict(re.findall(r"^([a-z0-9-]+)(?:\[.*\])?==(\S+)", lock.read_text(), re.MULTILINE))


@pytest.mark.parametrize("lock", sorted(LOCKS))
def test_images_contain_the_tested_versions(lock):
    tested = pins(ROOT / "requirements.txt")
    if lock == "serving":  # KServe is needed by tests only, beside the image
        tested |= pins(ROOT / "requirements-dev.txt")
    tested["tensorflow-cpu"] = tested["tensorflow"]
    own = {name: version for name, version in pins(LOCKS[lock]).items() if "nvidia" not in name}
    assert own == {name: tested.get(name) for name in own}
    text = LOCKS[lock].read_text()
    assert text.count("==") <= text.count("--hash=")


def test_images_contain_only_what_their_steps_import():
    assert not {"tensorflow", "tensorflow-cpu", "keras"} & set(pins(LOCKS["data"]))
    assert not any("nvidia" in name for name in pins(LOCKS["trainer-cpu"]))
    assert {"tensorflow", "nvidia-cudnn-cu12"} <= set(pins(LOCKS["trainer-gpu"]))
    assert list(pins(LOCKS["kfp"])) == ["kfp"]


def test_dockerfiles_pass_hadolint():
    hadolint = Path(sys.executable).parent / "hadolint"
    recipes = sorted((ROOT / "docker").glob("*.Dockerfile"))
    subprocess.run([hadolint, *recipes], check=True)


def test_build_context_is_the_code_and_the_locks():
    files = engine.context_files(ROOT)
    assert {Path(file).parts[0] for file in files} == {
        ".dockerignore",
        "components",
        "docker",
        "trainer",
    }
    assert {"trainer/train.py", "components/templates/base.html", "docker/data.txt"} <= set(files)
    assert not any("__pycache__" in file or file.endswith("Dockerfile") for file in files)


def test_sources_digest_changes_with_the_code(tmp_path, monkeypatch):
    for name in (".dockerignore", *(f"docker/{image}.Dockerfile" for image in images.NAMES)):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    monkeypatch.setattr(images, "ROOT", tmp_path)
    states = [images.sources()]
    for name in ("trainer/new.py", "docker/data.Dockerfile", "pipeline/new.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("new")
        states.append(images.sources())
    assert states[3] == states[2]  # no image holds pipeline/
    assert len(set(states)) == 3


@pytest.mark.parametrize(
    "given, message",
    [
        ({"registry": ""}, "--registry must be HOST/PROJECT/REPOSITORY"),
        ({"registry": "https://host/path"}, "without https://; got 'https://host/path'"),
    ],
)
def test_mistake_in_a_flag(given, message):
    with pytest.raises(UserError, match=message):
        PushConfig(**given)


def test_failed_build_shows_its_output(docker_engine, tmp_path, capsys):
    (tmp_path / "Dockerfile").write_text("FROM scratch\nCOPY nothing /\n")
    with (
        pytest.raises(UserError, match=f"{TINY} cannot be built: .*nothing"),
        images.progress(TINY) as show,
    ):
        engine.build(docker_engine, tmp_path, "Dockerfile", TINY, {}, {}, show)
    assert "Step 2/2 : COPY nothing /" in capsys.readouterr().out


# Contents of the images.


@pytest.fixture
def any_user(run_in):
    """Run a command as a user without a name, on a read-only file system."""

    def run(image, command, **settings):
        settings = {"user": "12345:0", "read_only": True, "tmpfs": {"/tmp": ""}} | settings
        return run_in(image, command, **settings)

    return run


@pytest.mark.slow  # builds the images
@pytest.mark.parametrize("image", sorted(images.NAMES))
def test_image_runs_without_root_and_build_tools(image, built, any_user, run_in):
    look = """
import importlib.util, os, shutil, sys
print(os.getuid())
tools = ["cc", "gcc", "g++", "make", "git", "curl"]
print([tool for tool in tools if shutil.which(tool)])
print([name for name in ("pip", "tensorflow", "apache_beam") if importlib.util.find_spec(name)])
writable = [folder for folder, _, _ in os.walk("/opt") if os.access(folder, os.W_OK)]
print(writable)
"""
    packages = {
        "data": "['apache_beam']",
        "trainer": "['tensorflow', 'apache_beam']",
        "serving": "['tensorflow']",
    }[image]
    assert run_in(built[image], ["python3", "-c", look]) == (0, ["65532", "[]", packages, "[]"])
    assert any_user(built[image], ["python3", "-c", look])[1][0] == "12345"


@pytest.mark.slow  # builds the images
@pytest.mark.parametrize(
    "image, modules",
    [
        (
            "data",
            "components.validate_data.pipeline, components.gate, components.registry.retention, "
            "components.summary",
        ),
        ("trainer", "components.train, components.evaluate, components.export_model"),
    ],
)
def test_an_image_holds_what_its_steps_import(image, modules, built, any_user):
    check = f"import kfp.dsl.executor_main, getpass, {modules}; print(getpass.getuser())"
    command = ["sh", "-c", '_KFP_RUNTIME=true exec python3 -c "$0"', check]
    code, lines = any_user(built[image], command)
    assert (code, lines[-1]) == (0, "yt8m"), lines


@pytest.mark.slow  # builds the images
@pytest.mark.parametrize(
    "image, flag",
    [("data", "--input"), ("trainer", "--train_data_pattern"), ("serving", "--served_dir")],
)
def test_image_runs_its_main_command(image, flag, built, any_user):
    code, lines = any_user(built[image], ["--help"])
    assert (code, flag in "\n".join(lines)) == (0, True)


@pytest.fixture
def trains(any_user, tmp_path):
    """A function that trains in an image, and checks whose the checkpoints are."""

    def train(image: str):
        data = generate(str(tmp_path / "data"), num_videos=100, num_classes=10)
        (tmp_path / "out").mkdir()
        (tmp_path / "out").chmod(0o777)
        flags = [
            "--model=MoeModel",
            "--feature_names=mean_rgb,mean_audio",
            "--feature_sizes=1024,128",
            "--num_classes=10",
            "--batch_size=32",
            "--num_epochs=1",
            "--train_data_pattern=/data/train*.tfrecord",
            "--train_dir=/out/model",
        ]
        mounts = [
            engine.mount(str(data), "/data", read_only=True),
            engine.mount(str(tmp_path / "out"), "/out"),
        ]
        code, lines = any_user(image, flags, mounts=mounts)
        assert code == 0, lines
        checkpoint = next((tmp_path / "out" / "model" / "checkpoints").iterdir())
        assert checkpoint.stat().st_uid == 12345

    return train


@pytest.mark.slow
def test_the_trainers_image_trains(built, trains):
    trains(built["trainer"])


@pytest.mark.slow
def test_the_serving_image_answers(built, trains, docker_engine, tmp_path):
    trains(built["trainer"])
    saved_model.export(str(tmp_path / "out" / "model"), str(tmp_path / "served" / "1"))
    settings = {"user": "12345:0", "read_only": True, "tmpfs": {"/tmp": ""}}
    settings["mounts"] = [
        engine.mount(str(tmp_path / "served"), "/served", read_only=True),
        engine.mount(str(tmp_path / "data"), "/data", read_only=True),
    ]
    server = ["--served_dir=/served"]
    client = ["python3", "-m", "trainer.serving.client", "--input_data_pattern=/data/eval*"]
    with engine.container(docker_engine, built["serving"], server, **settings) as running:
        assert any("Uvicorn running" in line for line in running.stdout)
        code, output = running.container.exec_run(client)
        running.container.kill("TERM")
    assert code == 0, output
    assert len(output.splitlines()) == 20
    assert running.returncode == 0


@pytest.fixture
def gpu_image(docker_engine) -> str:
    """The trainer's image for GPUs, of what is here, where somebody has built it: it is large."""
    name = images.local_names("gpu")["trainer"]
    image = engine.find(docker_engine, name)
    if image is None or image.labels.get(images.SOURCES) != images.sources():
        pytest.skip(f"NOT RUN, for it needs {name}: make images VARIANT=gpu")
    return name


@pytest.mark.slow
def test_the_gpu_image_trains_without_a_gpu_too(gpu_image, trains):
    trains(gpu_image)


@pytest.mark.slow
def test_the_gpu_image_lacks_the_driver_and_no_part_of_cuda(gpu_image, any_user):
    look = """
import ctypes, pathlib, tensorflow

class Status(ctypes.Structure):  # larger than it is: returned by address, as one of C++ is
    _fields_ = [("code", ctypes.c_size_t), ("rest", ctypes.c_size_t * 2)]

folder = pathlib.Path(tensorflow.__file__).parent
loader = ctypes.CDLL(str(folder / "libtensorflow_framework.so.2"))
for part in ("16GetNcclDsoHandle", "22TryDlopenCUDALibraries", "22GetCudaDriverDsoHandle"):
    load = getattr(loader, f"_ZN3tsl8internal9DsoLoader{part}Ev")
    load.restype = Status
    print(part[2:], load().code == 1)
"""
    code, lines = any_user(gpu_image, ["python3", "-c", look])
    assert (code, lines[-3:]) == (
        0,
        ["GetNcclDsoHandle True", "TryDlopenCUDALibraries True", "GetCudaDriverDsoHandle False"],
    )


# Push.


@pytest.fixture(scope="module")
def registry(docker_engine, tmp_path_factory) -> str:
    """Address of a registry of our own."""
    program = shutil.which("docker-registry")
    if program is None:
        reason = "NOT RUN, for there is no docker-registry (of the Debian package of that name)"
        pytest.fail(reason) if os.environ.get("CI") else pytest.skip(reason)
    address = f"127.0.0.1:{free_port()}"
    folder = tmp_path_factory.mktemp("registry")
    config = {
        "version": 0.1,
        "storage": {"filesystem": {"rootdirectory": str(folder / "data")}},
        "http": {"addr": address},
    }
    (folder / "config.yml").write_text(json.dumps(config))
    with (folder / "log").open("w") as log:
        server = subprocess.Popen([program, "serve", folder / "config.yml"], stderr=log)
    try:
        _wait_for(address)
        yield address
    finally:
        server.terminate()
        server.wait()


def _wait_for(address: str):
    host, port = address.split(":")
    for _ in range(100):
        try:
            return socket.create_connection((host, int(port))).close()
        except OSError:
            time.sleep(0.1)
    raise TimeoutError(address)


@pytest.fixture
def tiny_images(docker_engine):
    """Images that hold one small file, named as ours are."""
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("file"))
    names = images.local_names(tag=TINY)
    for name in names.values():
        docker_engine.api.import_image_from_data(
            content.getvalue(), *name.split(":"), changes=[f"LABEL {images.SOURCES}=others"]
        )
    ids = [engine.find(docker_engine, name).id for name in names.values()]
    yield names
    for id in ids:  # whatever else a test has called them
        docker_engine.images.remove(id, force=True)


def test_pushed_images_are_compiled_by_digest(
    registry, tiny_images, docker_engine, tmp_path, capsys
):
    file = tmp_path / "images.json"
    push(PushConfig(registry=f"{registry}/team", images_file=str(file), tag=TINY))
    pushed = json.loads(file.read_text())
    assert pushed["sources"] == "others"

    compiled = compile_pipeline(CompileConfig(str(tmp_path / "build"), images_file=str(file)))
    assert "not built from the current code; run `make push`" in capsys.readouterr().err
    used = set()
    for pipeline in compiled.values():
        spec = next(yaml.safe_load_all(pipeline.read_text()))
        executors = spec["deploymentSpec"]["executors"].values()
        used |= {executor["container"]["image"] for executor in executors}
    assert used == {pushed["images"]["data"], pushed["images"]["trainer"]}
    for image, name in pushed["images"].items():
        assert re.fullmatch(rf"{registry}/team/yt8m-{image}@sha256:[0-9a-f]{{64}}", name)
        repository, digest = name.split("@")
        docker_engine.images.remove(f"{repository}:{TINY}")
        assert docker_engine.images.pull(repository, tag=digest)

    named = compile_pipeline(
        CompileConfig(str(tmp_path / "build"), registry="other", images_file=str(file))
    )
    assert "image: other/yt8m-data:" in named["kubeflow"].read_text()


def test_invalid_images_file_is_an_error(tmp_path):
    (tmp_path / "images.json").write_text('{"images": {"data": "x"}}')
    with pytest.raises(UserError, match="must be a file written by `python -m pipeline push`"):
        compile_pipeline(CompileConfig(str(tmp_path), images_file=str(tmp_path / "images.json")))


def test_push_without_an_image_or_registry_is_an_error(docker_engine, tiny_images, tmp_path):
    file = tmp_path / "images.json"
    with pytest.raises(UserError, match=r"no image yt8m-data:none\. Build it with `make images`"):
        push(PushConfig(registry="127.0.0.1:1/x", tag="none", images_file=str(file)))
    with pytest.raises(UserError, match=f"127.0.0.1:1/x/yt8m-data:{TINY} cannot be pushed: "):
        push(PushConfig(registry="127.0.0.1:1/x", tag=TINY, images_file=str(file)))
    assert not file.exists()
