import json
import os

import pytest
import yaml
from kfp import compiler, dsl

from components.generate_data import generate
from pipeline import run
from pipeline.compile import CompileConfig, compile_pipeline
from pipeline.local import docker_runner, engine
from pipeline.local.subprocess_runner import StepFailed
from trainer.common.errors import UserError


@dsl.component(base_image="none", install_kfp_package=False)
def fail(file: str):
    pass


@dsl.component(base_image="none", install_kfp_package=False)
def write(file: str):
    from pathlib import Path

    Path(file).write_text("written")


@dsl.component(base_image="none", install_kfp_package=False)
def read(file: str):
    from pathlib import Path

    print(Path(file).read_text())


def compiled(task, image, folder):
    """A compiled pipeline of one step, in an image."""

    @dsl.pipeline
    def one_step(file: str, output_dir: str):
        task(file=file).set_container_image(image)

    compiler.Compiler().compile(one_step, str(folder / "pipeline.yaml"))
    return folder / "pipeline.yaml"


@pytest.mark.slow
def test_step_that_fails_at_once_is_never_taken_for_a_success(built, tmp_path):
    file = compiled(fail, built["data"], tmp_path)
    spec = yaml.safe_load(file.read_text())
    container = spec["deploymentSpec"]["executors"]["exec-fail"]["container"]
    # The fastest failure. The other arguments contain the step's name, as in kfp's commands.
    container["command"] = ["sh", "-c", "exit 3"]
    file.write_text(yaml.safe_dump(spec))
    arguments = {"file": "none", "output_dir": str(tmp_path / "out")}
    for _ in range(50):
        with pytest.raises(StepFailed, match="fail failed: exit code 3"):
            docker_runner.run(file, arguments, tmp_path / "scratch", "1a2b")


@pytest.mark.slow  # builds the images
def test_step_can_read_but_not_write_the_named_files(built, tmp_path, capfd):
    data, output = tmp_path / "it's data", tmp_path / "out"
    data.mkdir()
    (data / "file").write_text("what the file holds")
    (data / "link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere").write_text("what the other file holds")
    (tmp_path / "secret").write_text("secret")

    for name in ("file", "link"):
        arguments = {"file": str(data / name), "output_dir": str(output)}
        file = compiled(read, built["data"], tmp_path)
        docker_runner.run(file, arguments, tmp_path / "scratch", "1a2b")
    said = capfd.readouterr().out
    assert "    what the file holds\n" in said
    assert "    what the other file holds\n" in said

    file = compiled(write, built["data"], tmp_path)
    with pytest.raises(StepFailed, match="Read-only file system"):
        docker_runner.run(file, arguments, tmp_path / "scratch", "1a2b")
    assert (tmp_path / "elsewhere").read_text() == "what the other file holds"
    assert list((tmp_path / "scratch").iterdir()) == []


@pytest.fixture
def other_user(monkeypatch):
    """Has containers run as a user who is not root, and has no name; he may write what we make."""
    monkeypatch.setattr(os, "getuid", lambda: 12345)
    monkeypatch.setattr(os, "getgid", lambda: 0)
    before = os.umask(0)
    yield
    os.umask(before)


@pytest.mark.slow
def test_the_whole_pipeline_runs_in_the_images_and_its_files_are_the_users(
    built, tmp_path, other_user, capfd
):
    data = generate(str(tmp_path / "data"), num_videos=300, num_classes=10)
    arguments = {
        "train_data": f"{data}/train*.tfrecord",
        "eval_data": f"{data}/eval*.tfrecord",
        "vocabulary": f"{data}/vocabulary.csv",
        "output_dir": str(tmp_path / "out"),
        "run_name": "first",
        "num_classes": 10,
        "num_epochs": 20,
        "batch_size": 64,
    }
    run.run(arguments, "docker")
    out = tmp_path / "out"
    champion = json.loads((out / "published" / "champion.json").read_text())
    model = out / "published" / "served" / champion["version"] / "saved_model.pb"
    assert champion["metrics"]["gap"] > 0.8
    assert model.stat().st_uid == 12345
    assert "WARNING" not in capfd.readouterr().out

    # A corrupt shard fails the run and is named.
    shard = next((tmp_path / "data").glob("train*.tfrecord"))
    shard.write_bytes(shard.read_bytes()[:-10])
    with pytest.raises(UserError, match=f"(?s)validate_data failed: .*{shard.name}"):
        run.run(arguments | {"run_name": "second"}, "docker")
    (second,) = (out / "runs").glob("second-*")
    summary = json.loads((second / "summary.json").read_text())
    assert shard.name in json.dumps(summary)


@pytest.mark.slow  # builds the images
def test_container_may_be_silent_for_longer_than_the_request_timeout(docker_engine, built):
    docker_engine.api.timeout, before = 1, docker_engine.api.timeout
    try:
        command = ["sh", "-c", "sleep 2; echo so; sleep 2; exit 7"]
        with engine.container(docker_engine, built["data"], command) as running:
            assert list(running.stdout) == ["so"]
    finally:
        docker_engine.api.timeout = before
    assert running.returncode == 7


SAVES_WHEN_STOPPED = """
import signal, sys, time
def stop(*_):
    time.sleep(1)
    open(sys.argv[1], "w").close()
    sys.exit()
signal.signal(signal.SIGTERM, stop)
print("ready", flush=True)
time.sleep(60)
"""


@pytest.mark.slow  # builds the images
def test_stopped_step_has_time_to_save(docker_engine, built, tmp_path):
    # The step is a child of a shell, as in kfp's commands.
    command = ["sh", "-c", '"$@"; true', "sh", "python3", "-c", SAVES_WHEN_STOPPED, "/out/saved"]
    mounts = [engine.mount(str(tmp_path), "/out")]
    with (
        pytest.raises(KeyboardInterrupt),
        engine.container(
            docker_engine, built["data"], command, mounts=mounts, user=f"{os.getuid()}:0"
        ) as running,
    ):
        assert next(running.stdout) == "ready"
        raise KeyboardInterrupt
    assert (tmp_path / "saved").exists()
    names = {container.id for container in docker_engine.containers.list(all=True)}
    assert running.container.id not in names


def test_missing_image_is_named_with_the_command_that_builds_it(docker_engine, tmp_path):
    names = {"data": "yt8m-data:none", "trainer": "yt8m-trainer:none"}
    file = compile_pipeline(CompileConfig(str(tmp_path)), names)["kubeflow"]
    with pytest.raises(UserError, match=r"no image yt8m-data:none\. Build it with `make images`"):
        docker_runner.run(file, {"output_dir": str(tmp_path / "out")}, tmp_path / "scratch", "1a2b")
    assert not (tmp_path / "out").exists()


def test_missing_engine_is_an_error_with_its_address(tmp_path, monkeypatch):
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/no.sock")
    with pytest.raises(UserError, match=r"(?s)No Docker engine answers at .*no.sock.*DOCKER_HOST"):
        engine.connect()


def test_arguments_are_mounted_read_only_and_output_dir_writable(tmp_path):
    data, output = tmp_path / "data", tmp_path / "data" / "out"
    data.mkdir()
    (tmp_path / "far").mkdir()
    (tmp_path / "far" / "eval").touch()
    for name in ("train1", "train2"):
        (data / name).touch()
    (data / "eval").symlink_to(tmp_path / "far" / "eval")
    (tmp_path / "linked").symlink_to(data)
    mounts = docker_runner._mounts(
        {
            "train_data": f"gs://bucket/train*,{tmp_path}/linked/train*",
            "eval_data": f"{data}/eval",
            "num_epochs": 1,
            "output_dir": str(output),
        }
    )
    assert [(mount["Target"], mount["Source"], mount["ReadOnly"]) for mount in mounts] == [
        (f"{tmp_path}/linked", str(data), True),
        (str(data), str(data), True),
        (f"{tmp_path}/far", f"{tmp_path}/far", True),
        (str(output), str(output), False),
    ]
    assert output.is_dir()


@pytest.mark.parametrize("folder", ["/", "/opt", "/usr", "/usr/lib", "/etc"])
def test_mount_over_a_folder_of_the_image_is_refused(folder):
    with pytest.raises(UserError, match=f"Files in {folder} cannot be mounted in a container"):
        docker_runner._check_target(folder)


@pytest.mark.parametrize("folder", ["/opt/data", "/tmp", "/home/someone", "/data", "/usr/share/x"])
def test_folder_that_the_image_does_not_use_can_be_mounted(folder):
    docker_runner._check_target(folder)


@pytest.mark.parametrize(
    "options, maps",
    [
        (["name=seccomp,profile=default"], False),
        (["name=seccomp", "name=rootless"], True),
        (None, False),
    ],
)
def test_in_a_rootless_engine_root_is_the_user(options, maps):
    class Client:
        def info(self):
            return {"SecurityOptions": options}

    assert engine.maps_users(Client()) is maps


@pytest.mark.parametrize(
    "chunks, expected",
    [
        ([b"one\ntw", b"o\n"], ["one", "two"]),
        (["ä".encode()[:1], "ä".encode()[1:] + b"\nend"], ["ä", "end"]),
        ([b"\xff\n"], ["\ufffd"]),
        ([], []),
    ],
)
def test_lines_are_assembled_from_chunks(chunks, expected):
    assert list(engine.lines(iter(chunks))) == expected
