import json
import subprocess
import sys
import textwrap
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from components.registry import registry
from components.registry.registry import (
    history,
    promote,
    publish,
    read_champion,
    read_manifest,
    rollback,
    versions,
)
from pipeline.paths import ROOT
from trainer.common import storage
from trainer.common.errors import UserError


def served_model(publish_dir: str) -> str:
    """What a server reads: the model in the folder with the highest number."""
    return storage.read_text(f"{publish_dir}/served/{versions(publish_dir)[-1]}/saved_model.pb")


def publish_three(exported, publish_dir: str) -> None:
    for number, name in enumerate("abc"):
        publish(*place(exported(name, number / 10), publish_dir), str(number) if number else None)


def place(model: tuple[str, str], publish_dir: str) -> tuple[str, str, str]:
    return model[0], publish_dir, model[1]


def test_no_champion_at_first(publish_dir):
    assert read_champion(publish_dir) is None
    assert versions(publish_dir) == history(publish_dir) == []


def test_publish(exported, publish_dir):
    lineage = {"commit": "0123", "run_dir": "runs/1", "parameters": {"num_epochs": 5}}
    assert publish(*place(exported("a"), publish_dir), None, lineage) == "1"
    champion = read_champion(publish_dir)
    assert (champion.version, champion.metrics) == ("1", {"gap": 0.5})
    assert champion.path == f"{publish_dir}/served/1"
    assert storage.read_text(f"{champion.path}/variables/variables.index") == "a"
    manifest = read_manifest(publish_dir, "1")
    assert manifest["lineage"] == lineage
    assert (manifest["source"], manifest["parent"], manifest["version"]) == ("a", None, "1")
    card = storage.read_text(f"{champion.path}/model_card.md")
    assert "| Commit | 0123 |" in card and "| GAP | 0.5000 |" in card and "LogisticModel" in card
    assert "0123" in storage.read_text(f"{champion.path}/model_card.html")


def test_a_server_reads_the_published_model_also_after_a_rollback(exported, publish_dir):
    publish_three(exported, publish_dir)
    assert served_model(publish_dir) == "c"
    before = storage.read_bytes(f"{publish_dir}/served/2/manifest.json")
    assert rollback(publish_dir, "c is slow") == "4"
    assert served_model(publish_dir) == "b"
    assert read_champion(publish_dir).metrics == {"gap": 0.1}
    assert storage.read_bytes(f"{publish_dir}/served/2/manifest.json") == before
    manifest = read_manifest(publish_dir, "4")
    assert (manifest["of_version"], manifest["parent"]) == ("2", "3")
    assert (manifest["action"], manifest["reason"]) == ("rollback", "c is slow")
    assert rollback(publish_dir) == "5"
    assert served_model(publish_dir) == "a"
    assert promote(publish_dir, "3") == "6"
    assert served_model(publish_dir) == "c"
    publish(*place(exported("d"), publish_dir), "6")
    assert (rollback(publish_dir), served_model(publish_dir)) == ("8", "c")
    actions = [(entry["version"], entry["action"]) for entry in history(publish_dir)]
    assert actions == [
        *[(version, "publish") for version in "123"],
        ("4", "rollback"),
        ("5", "rollback"),
        ("6", "promote"),
        ("7", "publish"),
        ("8", "rollback"),
    ]


def test_nothing_to_roll_back_to(exported, publish_dir):
    with pytest.raises(UserError, match="No model is published in"):
        rollback(publish_dir)
    publish(*place(exported("a"), publish_dir), None)
    with pytest.raises(UserError, match="No model that was published before version 1 is left"):
        rollback(publish_dir)
    with pytest.raises(UserError, match="Version 1 is the published model already"):
        promote(publish_dir, "1")
    with pytest.raises(UserError, match=r"There is no version '7' in .*; there are 1"):
        promote(publish_dir, "7")


def test_publishing_twice_is_safe(exported, publish_dir):
    publish(*place(exported("a"), publish_dir), None)
    model = place(exported("b"), publish_dir)
    assert [publish(*model, "1") for _ in range(2)] == ["2", "2"]
    assert versions(publish_dir) == ["1", "2"]


@pytest.mark.parametrize("expected", [None, "", "1", "3"])
def test_conflict_with_another_champion(exported, publish_dir, expected):
    publish(*place(exported("a"), publish_dir), None)
    publish(*place(exported("b"), publish_dir), "1")
    with pytest.raises(UserError, match="is 2 now, but this model was compared with"):
        publish(*place(exported("c"), publish_dir), expected)
    assert served_model(publish_dir) == "b"
    assert not storage.files_below(f"{publish_dir}/staging")


@pytest.mark.parametrize(
    "num_publishers, publish_dir", [(100, "local"), (20, "gs")], indirect=["publish_dir"]
)
def test_of_concurrent_publishers_one_succeeds_and_nothing_is_left(
    exported, publish_dir, num_publishers
):
    publish(*place(exported("first"), publish_dir), None)
    models = [place(exported(f"m{i}"), publish_dir) for i in range(num_publishers)]
    start = threading.Barrier(num_publishers)

    def run(model) -> str:
        start.wait()
        try:
            return publish(*model, "1")
        except UserError as error:
            return str(error)

    with ThreadPoolExecutor(num_publishers) as threads:
        results = list(threads.map(run, models))
    assert results.count("2") == 1
    assert all("is 2 now" in result for result in results if result != "2")
    winner = models[results.index("2")][0].rsplit("-")[-1]
    assert served_model(publish_dir) == winner
    assert versions(publish_dir) == ["1", "2"]
    assert not storage.files_below(f"{publish_dir}/staging")
    assert [entry["version"] for entry in history(publish_dir)] == ["1", "2"]


@pytest.mark.slow
def test_publishers_that_try_again_lose_nothing(exported, publish_dir):
    models = [place(exported(f"m{i}"), publish_dir) for i in range(10)]

    def run(model) -> str:
        while True:
            champion = read_champion(publish_dir)
            try:
                return publish(*model, champion.version if champion else None)
            except UserError as error:
                assert "Not published" in str(error)

    with ThreadPoolExecutor(len(models)) as threads:
        results = list(threads.map(run, models))
    assert sorted(map(int, results)) == list(range(1, 11))
    assert len(history(publish_dir)) == 10
    assert {storage.read_text(f"{publish_dir}/served/{v}/saved_model.pb") for v in results} == {
        f"m{i}" for i in range(10)
    }


# Ends the process at the n-th write, as SIGKILL would.
KILLED = """
    import os
    from components.registry.registry import publish
    from trainer.common import storage

    writes = 0

    def dying(original):
        def write(*args, **options):
            global writes
            writes += 1
            if writes == {kill_at}:
                os._exit(9)
            return original(*args, **options)
        return write

    storage.write_file = dying(storage.write_file)
    storage.replace_if = dying(storage.replace_if)
    os.rename = dying(os.rename)
    storage.delete_tree = dying(storage.delete_tree)
    publish({model_dir!r}, {publish_dir!r}, {metrics_file!r}, "1")
"""


def complete_version(publish_dir: str) -> str:
    """What a server that starts now can load: the highest version with both last files."""
    files = set(storage.files_below(f"{publish_dir}/served"))
    return max(
        v for v in versions(publish_dir) if {f"{v}/saved_model.pb", f"{v}/manifest.json"} <= files
    )


@pytest.mark.slow
def test_kill_at_any_write_leaves_a_complete_model_and_a_retry_succeeds(exported, tmp_path):
    kill_at, killed = 1, True
    seen = set()
    while killed:
        publish_dir = str(tmp_path / f"published-{kill_at}")
        publish(*place(exported(f"a{kill_at}"), publish_dir), None)
        model_dir, _, metrics_file = place(exported(f"b{kill_at}"), publish_dir)
        code = textwrap.dedent(KILLED).format(
            kill_at=kill_at,
            model_dir=model_dir,
            publish_dir=publish_dir,
            metrics_file=metrics_file,
        )
        killed = subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 9
        champion = read_champion(publish_dir)
        letter = {"1": "a", "2": "b"}[champion.version]
        index = storage.read_text(f"{champion.path}/variables/variables.index")
        assert index == f"{letter}{kill_at}"
        assert complete_version(publish_dir) <= champion.version
        seen.add((champion.version, complete_version(publish_dir)))
        assert publish(model_dir, publish_dir, metrics_file, "1") == "2"
        assert served_model(publish_dir) == f"b{kill_at}"
        assert len(history(publish_dir)) == 2
        kill_at += 1
    assert seen == {("1", "1"), ("2", "1"), ("2", "2")}


@pytest.mark.parametrize(
    "pointer, message",
    [
        ("{}", r"Expected a JSON object with version, metrics, digest, staging in .*champion"),
        ("garbage", "Expected a JSON object"),
        ('{"version": null, "metrics": {}, "digest": "a", "staging": "b"}', "'version' .*got None"),
        ('{"version": "../x", "metrics": {}, "digest": "a", "staging": "b"}', r"got '\.\./x'"),
        (
            '{"version": "x", "metrics": {}, "digest": "a", "staging": "b"}',
            "a number for 'version'",
        ),
        (
            '{"version": "1", "metrics": {"gap": NaN}, "digest": "a", "staging": "b"}',
            "finite numbers as metrics; got {'gap': nan}",
        ),
        ('{"version": "1", "metrics": null, "digest": "a", "staging": "b"}', "finite numbers"),
    ],
)
def test_garbage_in_champion_json_is_an_error(exported, tmp_path, pointer, message):
    publish_dir = str(tmp_path / "published")
    storage.write_text(f"{publish_dir}/champion.json", pointer)
    for action in (
        lambda: read_champion(publish_dir),
        lambda: publish(*place(exported(str(len(list(tmp_path.iterdir())))), publish_dir), None),
        lambda: rollback(publish_dir),
    ):
        with pytest.raises(UserError, match=message):
            action()


def test_metrics_that_are_not_finite_are_not_published(exported, tmp_path):
    publish_dir = str(tmp_path / "published")
    with pytest.raises(UserError, match="The model's evaluation must have finite numbers"):
        publish(*place(exported("a", float("nan")), publish_dir), None)
    assert not storage.exists(publish_dir)


def test_error_names_a_missing_champion(exported, publish_dir):
    publish(*place(exported("a"), publish_dir), None)
    storage.delete_tree(f"{publish_dir}/served/1")
    with pytest.raises(UserError, match="served/1', which does not exist"):
        read_champion(publish_dir)


def test_missing_model_is_an_error(publish_dir, tmp_path):
    with pytest.raises(UserError, match=r"Cannot read '.*none/manifest.json'"):
        publish(str(tmp_path / "none"), publish_dir, "metrics.json", None)


def command(*words: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "components.registry", *words],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )


@pytest.mark.slow
def test_commands(exported, tmp_path):
    output = f"--output_dir={tmp_path}/output"
    publish_three(exported, f"{tmp_path}/output/published")
    model_dir, metrics_file = exported("d", 0.4)
    words = [f"--model_dir={model_dir}", f"--metrics_file={metrics_file}", "--expected_champion=3"]
    assert command("publish", output, *words).stdout.endswith("/published/served/4\n")
    ran = command("rollback", output, "--reason=too slow")
    assert ran.stdout == "Published version 3 again, as version 5.\n", ran.stderr
    lines = command("list", output).stdout.splitlines()
    numbers = [line.removeprefix("*").split()[0] for line in lines[:-1]]
    assert numbers == ["1", "2", "3", "4", "5"]
    assert lines[4].startswith("*") and "GAP 0.2000" in lines[4]
    assert lines[3].startswith(" ") and "GAP 0.4000" in lines[3]
    shown = json.loads(command("show", "5", output).stdout)
    assert (shown["of_version"], shown["reason"]) == ("3", "too slow")
    assert "rollback of version 3: too slow" in command("history", output).stdout
    assert "version 1 again, as version 6" in command("promote", "1", output).stdout
    assert "0 folders." in command("prune", output).stdout
    ran = command("show", "9", output)
    assert (ran.returncode, ran.stdout) == (1, "")
    assert ran.stderr.startswith("error: There is no version '9'")


def test_an_interrupted_move_is_finished_by_the_next_command(exported, publish_dir, monkeypatch):
    publish(*place(exported("a"), publish_dir), None)
    with monkeypatch.context() as patch:
        patch.setattr(registry, "_move", lambda *_: None)
        publish(*place(exported("b"), publish_dir), "1")
    champion = read_champion(publish_dir)
    assert champion.version == "2" and "/staging/" in champion.path
    assert served_model(publish_dir) == "a"
    publish(*place(exported("c"), publish_dir), "2")
    assert [served_model(publish_dir), *versions(publish_dir)] == ["c", "1", "2", "3"]
    assert not storage.files_below(f"{publish_dir}/staging")


@pytest.mark.parametrize("moved_at", ["exists", "read_json"])
def test_another_publisher_finishes_the_move_at_the_same_time(
    exported, publish_dir, monkeypatch, moved_at
):
    """It moves the model after the look into served/, or before the manifest is read."""
    with monkeypatch.context() as patch:
        patch.setattr(registry, "_move", lambda *_: None)
        publish(*place(exported("a"), publish_dir), None)
    original = getattr(storage, moved_at)
    watched = {"exists": "/published/served/1", "read_json": "/published/staging/"}[moved_at]
    moved = []

    def move_at_the_first_look(path, *keys):
        result = original(path, *keys) if moved_at == "exists" else None
        if not moved and watched in path:
            moved.append(path)
            registry.finish(publish_dir)
        return original(path, *keys) if result is None else result

    monkeypatch.setattr(storage, moved_at, move_at_the_first_look)
    assert publish(*place(exported("b"), publish_dir), "1") == "2"
    assert moved and [entry["version"] for entry in history(publish_dir)] == ["1", "2"]
    assert not storage.files_below(f"{publish_dir}/staging")
