"""The trainer's folder: for one trainer only, and on gs:// uploaded without making it wait."""

import json
import logging
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import pytest

from trainer.common import storage
from trainer.common.errors import UserError
from trainer.run_dir import mirror, working_dir

HOLD_AND_SLEEP = """
import sys, time
from trainer.run_dir import working_dir
with working_dir.open_exclusive(sys.argv[1], 3):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def train_dir(gcs_bucket, tmp_path, monkeypatch) -> str:
    """A remote train_dir, used from a machine that has never seen it."""
    new_machine(tmp_path / "one", monkeypatch)
    return f"{gcs_bucket}/model"


def new_machine(folder: Path, monkeypatch):
    """Makes `folder` the system's temporary folder, where the working folders are."""
    folder.mkdir(exist_ok=True)
    monkeypatch.setattr(tempfile, "tempdir", str(folder))


def save(local: str, step: int, content: str = "") -> Path:
    """What a trainer saves: flags, and a checkpoint."""
    folder = Path(local) / "checkpoints" / f"step-{step:08d}"
    folder.mkdir(parents=True)
    (folder / "variables.index").write_text(content or str(step))
    (Path(local) / "model_flags.json").write_text("{}")
    return folder


def steps(local: str) -> list[int]:
    folder = Path(local) / "checkpoints"
    return sorted(mirror.step_of(path.name) for path in folder.glob("step-*"))


def remote_steps(train_dir: str) -> list[int]:
    """The steps of the snapshots that count, which must be all that there are."""
    names = [snapshot["name"] for snapshot in mirror._snapshots(train_dir)]
    files = storage.files_below(f"{train_dir}/snapshots")
    assert {file.split("/")[0] for file in files} == set(names)
    return [mirror.step_of(name) for name in names]


def kill(folder: working_dir.RemoteFolder):
    """Stops both threads where they are, as SIGKILL does, and leaves everything as it is."""
    folder._remote._released.set()
    with folder._condition:
        folder._waiting, folder._closing = {}, 1.0
        folder._condition.notify()
    folder._thread.join()


@pytest.fixture
def killed_after(train_dir):
    """killed_after(save): holds the folder, calls save(folder) and dies. Gives the local path."""

    def run(body) -> str:
        context = working_dir.open_exclusive(train_dir, 3)
        folder = context.__enter__()
        body(folder)
        kill(folder)
        folder._remote.lost = mirror.Lost("dead")  # leaving the context is to do nothing now
        with pytest.raises(mirror.Lost):
            context.__exit__(None, None, None)
        return folder.local

    return run


# --- one trainer at a time ------------------------------------------------------------------


def test_one_trainer_in_a_local_folder(tmp_path):
    folder = f"{tmp_path}/new/model"
    with working_dir.open_exclusive(folder, 3) as first:
        assert first.local == folder
        first.changed()
        first.check()
        message = rf"model is in use: process {os.getpid()} on .* \(since .*\) trains in it"
        with pytest.raises(UserError, match=message), working_dir.open_exclusive(folder, 3):
            pass
    with working_dir.open_exclusive(folder, 3):
        pass


@pytest.mark.parametrize("place", ["local", "gs"])
def test_a_killed_trainer_locks_nobody_of_its_machine_out(place, request, tmp_path, monkeypatch):
    folder = str(tmp_path / "model") if place == "local" else request.getfixturevalue("train_dir")
    environment = os.environ | {"TMPDIR": tempfile.gettempdir()}
    command = [sys.executable, "-c", HOLD_AND_SLEEP, folder]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as other:
        assert other.stdout.readline() == b"held\n"
        message = f"{folder} is in use: process {other.pid} on "
        with pytest.raises(UserError, match=message), working_dir.open_exclusive(folder, 3):
            pass
        other.kill()
    monkeypatch.setattr(mirror, "POLL_SECONDS", None)  # it is not to wait
    with working_dir.open_exclusive(folder, 3):
        pass


def test_one_trainer_in_a_remote_folder(train_dir, tmp_path, monkeypatch):
    monkeypatch.setattr(mirror, "RENEW_SECONDS", 0.05)
    monkeypatch.setattr(mirror, "POLL_SECONDS", 0.01)
    with working_dir.open_exclusive(train_dir, 3):
        new_machine(tmp_path / "two", monkeypatch)
        with pytest.raises(UserError, match="is in use"), working_dir.open_exclusive(train_dir, 3):
            pass
    with working_dir.open_exclusive(train_dir + "/", 3):
        pass


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").touch()
    folder = f"{tmp_path}/file/model"
    with pytest.raises(UserError, match=f"Cannot write to --train_dir={folder}"):
        working_dir.open_exclusive(folder, 3).__enter__()


def test_a_folder_on_a_full_disk(tmp_path):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, limits[1]))  # no file can grow, as on a full disk
    try:
        with pytest.raises(UserError, match=f"Cannot write to --train_dir={tmp_path}"):
            working_dir.open_exclusive(str(tmp_path), 3).__enter__()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_a_lock_file_written_by_halves(tmp_path):
    (tmp_path / working_dir.LOCK_FILE).write_text('{"host": ')
    with working_dir.open_exclusive(str(tmp_path), 3):
        assert json.loads((tmp_path / working_dir.LOCK_FILE).read_text())["pid"] == os.getpid()


def test_a_trainer_that_was_overtaken_stops(train_dir, monkeypatch):
    monkeypatch.setattr(mirror, "RENEW_SECONDS", 1000)
    with pytest.raises(mirror.Lost), working_dir.open_exclusive(train_dir, 3) as folder:
        folder.check()
        storage.delete_tree(train_dir)
        save(folder.local, 1)
        folder.changed()
        folder._thread.join()
        with pytest.raises(mirror.Lost, match="This trainer lost"):
            folder.check()
        save(folder.local, 2)
        folder.changed()
    assert not storage.exists(f"{train_dir}/mirror.json")


# --- from the remote folder and back --------------------------------------------------------


def test_another_machine_goes_on(train_dir, tmp_path, monkeypatch):
    with working_dir.open_exclusive(train_dir, 2) as folder:
        first = folder.local
        for step in (1, 2, 3):
            save(folder.local, step)
            folder.changed()
    assert not Path(first).exists()
    assert remote_steps(train_dir)[-1] == 3
    new_machine(tmp_path / "two", monkeypatch)
    with working_dir.open_exclusive(train_dir, 2) as folder:
        assert steps(folder.local) == [3]
        assert (Path(folder.local) / "model_flags.json").read_text() == "{}"
        save(folder.local, 4)
        folder.changed()
    assert remote_steps(train_dir) == [3, 4]


def test_nothing_to_upload(train_dir):
    with working_dir.open_exclusive(train_dir, 3) as folder:
        folder.changed()
    assert storage.files_below(train_dir) == ["mirror.json"]


def test_starting_anew(train_dir):
    with working_dir.open_exclusive(train_dir, 3) as folder:
        save(folder.local, 5)
        folder.changed()
    with working_dir.open_exclusive(train_dir, 3, start_new=lambda _: True) as folder:
        assert steps(folder.local) == []
        assert storage.files_below(train_dir) == ["mirror.json"]
        save(folder.local, 1)
        folder.changed()
    assert remote_steps(train_dir) == [1]


def test_starting_anew_where_no_snapshot_is_complete(train_dir):
    with working_dir.open_exclusive(train_dir, 3) as folder:
        save(folder.local, 5)
        folder.changed()
    for name in storage.files_below(f"{train_dir}/snapshots"):
        storage.write_bytes(f"{train_dir}/snapshots/{name}", b"damaged")
    with pytest.raises(UserError, match="complete"), working_dir.open_exclusive(train_dir, 3):
        pass
    with working_dir.open_exclusive(train_dir, 3, start_new=lambda _: True) as folder:
        assert steps(folder.local) == []
    assert storage.files_below(train_dir) == ["mirror.json"]


def test_the_same_machine_goes_on_with_what_was_not_uploaded(train_dir, killed_after, monkeypatch):
    def body(folder):
        save(folder.local, 1)
        folder.changed()
        save(folder.local, 2, "precious")

    killed_after(body)
    assert remote_steps(train_dir) in ([], [1])  # the kill may have come before the upload
    with working_dir.open_exclusive(train_dir, 3) as folder:
        assert steps(folder.local) == [1, 2]
    assert remote_steps(train_dir)[-1] == 2
    with mirror.local_copy(train_dir) as local:
        index = Path(local) / "checkpoints/step-00000002/variables.index"
        assert index.read_text() == "precious"


def test_with_other_workers_what_was_not_uploaded_does_not_count(train_dir, killed_after):
    killed_after(lambda folder: save(folder.local, 2))
    with working_dir.open_exclusive(train_dir, 3, single_worker=False) as folder:
        assert steps(folder.local) == []


def test_what_another_machine_did_since_counts_more(train_dir, killed_after, tmp_path, monkeypatch):
    killed_after(lambda folder: save(folder.local, 7, "old"))
    monkeypatch.setattr(mirror, "POLL_SECONDS", 0.01)
    hold_seconds_of(train_dir, 0.1)
    new_machine(tmp_path / "two", monkeypatch)
    with working_dir.open_exclusive(train_dir, 3) as folder:
        save(folder.local, 1)
        folder.changed()
    new_machine(tmp_path / "one", monkeypatch)
    with working_dir.open_exclusive(train_dir, 3) as folder:
        assert steps(folder.local) == [1]


def hold_seconds_of(train_dir: str, seconds: float):
    """Lets the hold of a dead trainer end after `seconds`."""
    record = json.loads(storage.read_text(f"{train_dir}/mirror.json"))
    record["trainer"]["hold_seconds"] = seconds
    storage.write_text(f"{train_dir}/mirror.json", json.dumps(record))


def test_a_remote_folder_that_was_removed_is_a_new_one(train_dir, killed_after):
    killed_after(lambda folder: save(folder.local, 7))
    storage.delete_tree(train_dir)
    with working_dir.open_exclusive(train_dir, 3) as folder:
        assert steps(folder.local) == []


def test_a_working_folder_of_another_user(train_dir, monkeypatch):
    monkeypatch.setattr(os, "getuid", lambda: -1)
    with pytest.raises(UserError, match=r"yt8m-train--1 belongs to another user\. Set TMPDIR"):
        working_dir.open_exclusive(train_dir, 3).__enter__()


def test_a_working_folder_that_cannot_be_made(train_dir, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", "/dev/null")
    with pytest.raises(UserError, match=r"Cannot create a working folder: .* Set TMPDIR"):
        working_dir.open_exclusive(train_dir, 3).__enter__()


# --- in the background ----------------------------------------------------------------------


@pytest.fixture
def gate(monkeypatch):
    """Uploads wait until it is set; gate.reached is set when one does."""
    gate, write_file = threading.Event(), storage.write_file
    gate.reached = threading.Event()

    def wait(path, content):
        if path.startswith("gs://"):
            gate.reached.set()
            gate.wait()
        write_file(path, content)

    monkeypatch.setattr(storage, "write_file", wait)
    return gate


def test_slow_uploads_skip_to_the_newest(train_dir, gate):
    with working_dir.open_exclusive(train_dir, 9) as folder:
        save(folder.local, 1)
        folder.changed()
        gate.reached.wait()
        for step in (2, 3, 4):  # each takes the place of the one that waits
            save(folder.local, step)
            folder.changed()
        gate.set()
    assert remote_steps(train_dir) == [1, 4]


def test_what_is_removed_here_while_it_is_uploaded_arrives_whole(train_dir, gate):
    with working_dir.open_exclusive(train_dir, 1) as folder:
        saved = save(folder.local, 1, "whole")
        folder.changed()
        shutil.rmtree(saved)
        gate.set()
    with mirror.local_copy(train_dir) as local:
        assert (Path(local) / "checkpoints/step-00000001/variables.index").read_text() == "whole"


@pytest.fixture
def failing(monkeypatch):
    """failing(times): that many uploads fail from now on."""
    write_file = storage.write_file

    def fail(times: float):
        left = times

        def write(path, content):
            nonlocal left
            if path.startswith("gs://") and left > 0:
                left -= 1
                raise UserError(f"Cannot write '{path}': the network is down.")
            write_file(path, content)

        monkeypatch.setattr(storage, "write_file", write)

    monkeypatch.setattr(working_dir, "MAX_RETRY_SECONDS", 0.01)
    return fail


def test_a_failed_upload_is_tried_again(train_dir, failing, caplog):
    with working_dir.open_exclusive(train_dir, 3) as folder:
        failing(5)
        save(folder.local, 1)
        folder.changed()
    assert remote_steps(train_dir) == [1]
    assert caplog.text.count("An upload failed and will be retried: Cannot write") == 5


def test_uploads_that_keep_failing_are_an_error_at_the_end(train_dir, failing, monkeypatch):
    monkeypatch.setattr(working_dir, "RETRY_SECONDS_AT_END", 0)
    context = working_dir.open_exclusive(train_dir, 3)
    folder = context.__enter__()
    failing(float("inf"))
    save(folder.local, 1)
    folder.changed()
    with pytest.raises(UserError) as error:
        context.__exit__(None, None, None)
    message = str(error.value)
    assert f"could not be uploaded to {train_dir}: Cannot write " in message
    assert "the network is down. It is in " + folder.local in message
    failing(0)
    with working_dir.open_exclusive(train_dir, 3) as folder:  # as the message promises
        assert steps(folder.local) == [1]
    assert remote_steps(train_dir) == [1]


def test_the_reason_for_leaving_counts_more_than_failing_uploads(
    train_dir, failing, monkeypatch, caplog
):
    monkeypatch.setattr(working_dir, "RETRY_SECONDS_AT_END", 0)
    with pytest.raises(SystemExit), working_dir.open_exclusive(train_dir, 3) as folder:
        failing(float("inf"))
        save(folder.local, 1)
        folder.changed()
        raise SystemExit
    assert f"could not be uploaded to {train_dir}" in caplog.text


def test_exports_and_events_are_uploaded(train_dir, caplog):
    caplog.set_level(logging.INFO)
    with working_dir.open_exclusive(train_dir, 3) as folder:
        export = Path(folder.local) / "export/step-00000001"
        (export / "variables").mkdir(parents=True)
        for name in ("manifest.json", "variables/data"):
            (export / name).write_text(name)
        save(folder.local, 1)
        folder.changed()
        events = Path(folder.local) / "events/train"
        events.mkdir(parents=True)
        (events / "events.1").write_text("one")
    assert storage.read_text(f"{train_dir}/export/step-00000001/variables/data") == "variables/data"
    assert storage.exists(f"{train_dir}/export/step-00000001/manifest.json")
    assert storage.read_text(f"{train_dir}/events/train/events.1") == "one"
    assert f"Uploaded step-00000001 to {train_dir} in " in caplog.text


def test_growing_events_are_uploaded_again(train_dir, monkeypatch):
    monkeypatch.setattr(working_dir, "EVENTS_SECONDS", 0.01)
    uploaded, write = threading.Semaphore(0), mirror.Mirror.write

    def counted(self, name, content):
        write(self, name, content)
        uploaded.release()

    monkeypatch.setattr(mirror.Mirror, "write", counted)
    with working_dir.open_exclusive(train_dir, 3) as folder:
        events = Path(folder.local) / "events"
        events.mkdir()
        for text in ("a", "ab"):
            new = Path(folder.local) / "new"
            new.write_text(text)
            new.replace(events / "e")
            uploaded.acquire()
        assert storage.read_text(f"{train_dir}/events/e") == "ab"
        assert not uploaded.acquire(timeout=0.1)  # and no more often than it grows
