"""A remote train_dir: one trainer at a time, and whole snapshots or none."""

import io
import json
import logging
from pathlib import Path

import pytest

from trainer.common import storage
from trainer.common.errors import UserError
from trainer.run_dir import mirror


def trainer(host: str = "here", lock: str = "1") -> dict:
    return {"host": host, "pid": 7, "since": "2026-01-02 03:04:05+00:00", "lock": lock}


def files(content: str) -> dict[str, io.BytesIO]:
    return {
        "model_flags.json": io.BytesIO(b"{}"),
        "checkpoints/step-00000001/variables.index": io.BytesIO(content.encode()),
        "checkpoints/step-00000001/state.json": io.BytesIO(content.upper().encode()),
    }


def add(held: mirror.Mirror, content: str, keep: int = 3) -> str:
    name = held.name_snapshot(f"step-{content}")
    assert held.add_snapshot(name, files(content), keep)
    return name


def fetched(train_dir: str, folder: Path) -> str | None:
    """The content of the snapshot that is the newest, after checking that it is whole."""
    if mirror.fetch(train_dir, folder) is None:
        assert not any(folder.rglob("*"))
        return None
    read = {name: (folder / name).read_text() for name in files("")}
    content = read["checkpoints/step-00000001/variables.index"]
    assert read == {name: file.read().decode() for name, file in files(content).items()}
    return content


def snapshots(train_dir: str) -> set[str]:
    return {name.split("/")[0] for name in storage.files_below(f"{train_dir}/snapshots")}


@pytest.fixture
def train_dir(gcs_bucket) -> str:
    return f"{gcs_bucket}/model"


@pytest.fixture
def hold(train_dir):
    """hold(**who): the folder, held by a trainer; freed when the test ends."""
    held = []

    def acquire(**who) -> mirror.Mirror:
        held.append(mirror.acquire(train_dir, trainer(**who)))
        return held[-1]

    yield acquire
    for one in held:
        one.release()


@pytest.fixture
def no_waiting(monkeypatch):
    """Fails where a trainer would have to wait for another one."""
    monkeypatch.setattr(mirror, "POLL_SECONDS", None)


def die(held: mirror.Mirror):
    """Stops all renewal, as SIGKILL does."""
    held._released.set()


def test_the_newest_snapshot_comes_back(hold, train_dir, tmp_path):
    assert fetched(train_dir, tmp_path) is None
    held = hold()
    assert fetched(train_dir, tmp_path) is None
    add(held, "a")
    assert fetched(train_dir, tmp_path) == "a"
    add(held, "b")
    assert fetched(train_dir, tmp_path) == "b"


def test_only_the_newest_snapshots_are_kept(hold, train_dir, tmp_path):
    held = hold()
    names = [add(held, content, keep=2) for content in "abc"]
    assert snapshots(train_dir) == set(names[1:])
    assert [one["name"] for one in mirror._snapshots(train_dir)] == names[1:]


def test_a_snapshot_is_not_uploaded_twice(hold, train_dir):
    held = hold()
    name = add(held, "a")
    assert not held.add_snapshot("step-a-other", files("a"), 3)
    assert snapshots(train_dir) == {name}


def test_a_kill_at_any_request_leaves_the_old_snapshot_or_the_new_one(
    hold, train_dir, tmp_path, monkeypatch
):
    class Kill(BaseException):
        pass

    def killed_at(request: int, old: str, new: str) -> bool:
        """Adds `old`, then `new` by a trainer that dies before its next `request`-th request."""
        held, requests = hold(), 0
        add(held, old, keep=1)

        def count(function):
            def counted(*args, **kwargs):
                nonlocal requests
                requests += 1
                if requests > request:
                    raise Kill
                return function(*args, **kwargs)

            return counted

        with monkeypatch.context() as patch:
            for name in ("write_file", "replace_if", "delete_tree", "files_below"):
                patch.setattr(storage, name, count(getattr(storage, name)))
            try:
                add(held, new, keep=1)
            except Kill:
                return True
            finally:
                die(held)
        return False

    seen, request = [], 0
    while killed_at(request, f"old{request}", f"new{request}"):
        seen.append(fetched(train_dir, tmp_path / str(request)))
        request += 1
    # Three files, the listing, the swap; then the old one is deleted.
    assert seen == [*(f"old{i}" for i in range(5)), "new5"]
    assert fetched(train_dir, tmp_path / "all") == "new6"
    assert len(snapshots(train_dir)) == 1  # what the killed ones left is gone


def test_a_broken_snapshot_is_passed_over(hold, train_dir, tmp_path, caplog):
    held = hold()
    name = {content: add(held, content) for content in "abc"}
    path = "checkpoints/step-00000001/state.json"
    storage.delete_tree(f"{train_dir}/snapshots/{name['c']}/checkpoints")
    assert fetched(train_dir, tmp_path / "1") == "b"
    assert f"{name['c']}/checkpoints/step-00000001/variables.index is missing" in caplog.text
    storage.write_text(f"{train_dir}/snapshots/{name['b']}/{path}", "X")
    assert fetched(train_dir, tmp_path / "2") == "a"
    storage.write_text(f"{train_dir}/snapshots/{name['a']}/{path}", "X")
    with pytest.raises(UserError, match=f"None of the 3 snapshots in {train_dir} is complete"):
        mirror.fetch(train_dir, tmp_path / "3")


def test_a_trainer_forgets_broken_snapshots(hold, train_dir, tmp_path):
    held = hold()
    old, new = add(held, "a"), add(held, "b")
    storage.delete_tree(f"{train_dir}/snapshots/{new}/checkpoints")
    held.restore(tmp_path)
    assert held.newest["name"] == old
    assert held.add_snapshot("step-b-again", files("b"), 3)  # the same files, this time whole
    assert fetched(train_dir, tmp_path) == "b"
    assert snapshots(train_dir) == {old, "step-b-again"}


def test_a_reader_follows_a_trainer_that_replaces_what_it_reads(
    hold, train_dir, tmp_path, monkeypatch
):
    held = hold()
    add(held, "a", keep=1)
    read, fetch_complete = [], mirror._fetch_complete

    def replaced_meanwhile(train_dir, snapshot, local):
        read.append(snapshot["name"])
        if len(read) == 1:
            add(held, "b", keep=1)
        return fetch_complete(train_dir, snapshot, local)

    monkeypatch.setattr(mirror, "_fetch_complete", replaced_meanwhile)
    assert fetched(train_dir, tmp_path) == "b"
    assert len(read) == 2


def test_a_local_copy_for_readers(hold, train_dir, tmp_path):
    with mirror.local_copy(str(tmp_path)) as local:
        assert local == str(tmp_path)
    with mirror.local_copy(train_dir) as local:
        assert not any(Path(local).iterdir())
    add(hold(), "a")
    with mirror.local_copy(train_dir) as local:
        assert (Path(local) / "model_flags.json").exists()
        assert (Path(local) / "checkpoints/step-00000001/state.json").read_text() == "A"
    assert not Path(local).exists()


def test_clear_forgets_everything_but_events(hold, train_dir, tmp_path):
    held = hold()
    before = held.id
    add(held, "a")
    held.add_export("step-1", {"manifest.json": io.BytesIO(b"{}")}, 3)
    held.write("events/train", io.BytesIO(b"x"))
    held.clear()
    assert held.id != before
    assert fetched(train_dir, tmp_path) is None
    assert storage.files_below(train_dir) == ["events/train", "mirror.json"]


def test_exports_are_complete_and_few(hold, train_dir, monkeypatch):
    held, written = hold(), []
    write_file = storage.write_file

    def noted(path, content):
        written.append(path.removeprefix(f"{train_dir}/export/"))
        write_file(path, content)

    def export(step: str):
        names = ("a", "manifest.json", "variables/b")
        held.add_export(step, {name: io.BytesIO(step.encode()) for name in names}, 2)

    monkeypatch.setattr(storage, "write_file", noted)
    export("step-1")
    assert written == ["step-1/a", "step-1/variables/b", "step-1/manifest.json"]
    export("step-1")
    assert len(written) == 3
    export("step-2")
    export("step-3")
    exports = {name.split("/")[0] for name in storage.files_below(f"{train_dir}/export")}
    assert exports == {"step-2", "step-3"}


def test_a_living_trainer_keeps_others_out(hold, train_dir, monkeypatch):
    monkeypatch.setattr(mirror, "RENEW_SECONDS", 0.05)
    monkeypatch.setattr(mirror, "POLL_SECONDS", 0.01)
    hold(host="one")
    with pytest.raises(UserError) as error:
        hold(host="two")
    assert f"{train_dir} is in use: process 7 on one (since 2026-01-02" in str(error.value)


def test_the_next_trainer_need_not_wait_for_one_that_ended(hold, no_waiting):
    hold(host="one").release()
    hold(host="two")


def test_the_next_trainer_of_this_machine_need_not_wait_for_one_that_was_killed(hold, no_waiting):
    die(hold(host="one", lock="1"))
    hold(host="one", lock="1")


@pytest.mark.parametrize("host, lock", [("one", "2"), ("two", "1")])
def test_a_killed_trainer_of_another_machine_is_waited_for(
    hold, train_dir, monkeypatch, caplog, host, lock
):
    monkeypatch.setattr(mirror, "LEASE_SECONDS", 0.2)
    monkeypatch.setattr(mirror, "POLL_SECONDS", 0.01)
    killed = hold(host="one", lock="1")
    add(killed, "a")
    die(killed)
    caplog.set_level(logging.INFO)
    assert hold(host=host, lock=lock).newest == killed.newest
    assert f"{train_dir} is locked by process 7 on one" in caplog.text


@pytest.fixture
def overtaken(hold, monkeypatch) -> tuple[mirror.Mirror, mirror.Mirror]:
    """Two trainers: one that slept for too long, and the one that took over."""
    monkeypatch.setattr(mirror, "RENEW_SECONDS", 1000)
    monkeypatch.setattr(mirror, "LEASE_SECONDS", 0.1)
    monkeypatch.setattr(mirror, "POLL_SECONDS", 0.01)
    slept = hold(host="one")
    add(slept, "a")
    monkeypatch.setattr(mirror, "LEASE_SECONDS", 1000)  # for what it believes, time stood still
    return slept, hold(host="two")


def test_an_overtaken_trainer_cannot_make_its_snapshot_count(overtaken, train_dir, tmp_path):
    slept, awake = overtaken
    with pytest.raises(
        mirror.Lost, match=r"This trainer lost .*: process 7 on two .* has taken over"
    ):
        add(slept, "b")
    assert isinstance(slept.lost, mirror.Lost)
    assert fetched(train_dir, tmp_path) == "a"
    name = add(awake, "c", keep=1)
    assert fetched(train_dir, tmp_path) == "c"
    assert snapshots(train_dir) == {name}


def test_an_overtaken_trainer_writes_nothing_any_more(overtaken, train_dir, monkeypatch):
    slept, awake = overtaken
    monkeypatch.setattr(mirror, "LEASE_SECONDS", 0)  # it looks at the clock, and asks
    for _ in range(2):
        with pytest.raises(mirror.Lost):
            slept.write("events/train", io.BytesIO(b"x"))
    assert not storage.exists(f"{train_dir}/events")
    slept.release()
    add(awake, "c")


def test_a_trainer_notices_by_itself_that_it_was_overtaken(hold, monkeypatch):
    monkeypatch.setattr(mirror, "RENEW_SECONDS", 0.05)
    held = hold()
    storage.delete_tree(held.train_dir)
    held._thread.join()
    assert f"This trainer lost {held.train_dir}: it was removed" in str(held.lost)


def test_an_answer_that_gets_lost_is_no_loss(hold, train_dir, tmp_path, monkeypatch):
    held, replace_if = hold(), storage.replace_if

    def unanswered(*args, **kwargs):
        replace_if(*args, **kwargs)
        raise UserError("Cannot write: timeout.")

    with monkeypatch.context() as patch:
        patch.setattr(storage, "replace_if", unanswered)
        with pytest.raises(UserError, match="timeout"):
            held._swap()
    add(held, "a")
    assert held.lost is None
    assert fetched(train_dir, tmp_path) == "a"


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"id": 1'])
def test_a_record_that_no_trainer_wrote(train_dir, text):
    storage.write_text(f"{train_dir}/mirror.json", text)
    with pytest.raises(UserError, match=f"Expected a record of a trainer in '{train_dir}/mirror."):
        mirror.acquire(train_dir, trainer())


def test_the_record_says_who_trains(hold, train_dir):
    held = hold()
    record = json.loads(storage.read_text(f"{train_dir}/mirror.json"))
    assert record["trainer"].items() >= trainer().items()
    held.release()
    assert json.loads(storage.read_text(f"{train_dir}/mirror.json"))["trainer"] is None


def test_a_bucket_that_does_not_exist(gcs_bucket):
    with pytest.raises(UserError, match="Cannot look for"):
        mirror.acquire(f"{gcs_bucket}-not/model", trainer())
