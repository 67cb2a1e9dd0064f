import json
import subprocess
import sys
import textwrap
import threading

import pytest

from components.publish import publish, read_champion
from pipeline.paths import ROOT
from trainer.common import storage
from trainer.common.errors import UserError

FIRST, SECOND, THIRD = "20260102030405", "20260102030406", "20260102030407"


@pytest.fixture(params=["local", "gs"])
def publish_dir(request, tmp_path) -> str:
    if request.param == "local":
        return str(tmp_path / "published")
    return request.getfixturevalue("gcs_bucket") + "/published"


@pytest.fixture
def exported(tmp_path):
    """exported(version): folder and metrics.json of a model exported at the time of `version`."""

    def export(version: str, content: str = "") -> tuple[str, str]:
        folder = tmp_path / f"model-{version}{content}"
        (folder / "variables").mkdir(parents=True)
        (folder / "variables" / "variables.index").write_text(version + content)
        created = f"2026-01-02T03:04:{version[-2:]}+00:00"
        (folder / "manifest.json").write_text(json.dumps({"created": created, "step": content}))
        metrics = tmp_path / f"metrics-{version}.json"
        metrics.write_text(json.dumps({"challenger": {"gap": int(version[-1]) / 10}}))
        return str(folder), str(metrics)

    return export


def publish_model(exported, publish_dir: str, version: str, expected: str | None) -> str:
    model_dir, metrics_file = exported(version)
    return publish(model_dir, publish_dir, metrics_file, expected)


def test_no_champion_at_first(publish_dir):
    assert read_champion(publish_dir) is None


def test_publish(exported, publish_dir):
    assert publish_model(exported, publish_dir, FIRST, None) == FIRST
    champion = read_champion(publish_dir)
    assert champion.version == FIRST
    assert champion.path == f"{publish_dir}/{FIRST}"
    assert champion.metrics == {"gap": 0.5}
    assert storage.read_text(f"{champion.path}/variables/variables.index") == FIRST


def test_replaced_champion_keeps_its_folder(exported, publish_dir):
    publish_model(exported, publish_dir, FIRST, None)
    publish_model(exported, publish_dir, SECOND, FIRST)
    assert read_champion(publish_dir).version == SECOND
    assert storage.read_text(f"{publish_dir}/{FIRST}/variables/variables.index") == FIRST


def test_roll_back_to_an_older_version(exported, publish_dir):
    model_dir, metrics_file = exported(FIRST)
    publish(model_dir, publish_dir, metrics_file, None)
    publish_model(exported, publish_dir, SECOND, FIRST)
    publish(f"{publish_dir}/{FIRST}", publish_dir, metrics_file, SECOND)
    assert read_champion(publish_dir).version == FIRST
    assert storage.read_text(f"{publish_dir}/{FIRST}/variables/variables.index") == FIRST


def test_publishing_twice_is_safe(exported, publish_dir):
    publish_model(exported, publish_dir, FIRST, None)
    model_dir, metrics_file = exported(SECOND)
    for _ in range(2):
        assert publish(model_dir, publish_dir, metrics_file, FIRST) == SECOND
    assert read_champion(publish_dir).metrics == {"gap": 0.6}


@pytest.mark.parametrize("expected", [None, "", FIRST])
def test_conflict_with_another_champion(exported, publish_dir, expected):
    publish_model(exported, publish_dir, FIRST, None)
    publish_model(exported, publish_dir, SECOND, FIRST)
    message = f"the published model in '{publish_dir}' is {SECOND} now, but this model was compared"
    with pytest.raises(UserError, match=message):
        publish_model(exported, publish_dir, THIRD, expected)
    assert read_champion(publish_dir).version == SECOND
    assert not storage.exists(f"{publish_dir}/{THIRD}")


def test_conflict_with_no_champion(exported, publish_dir):
    with pytest.raises(UserError, match=f"the published model in .* is none now, .* with {FIRST}"):
        publish_model(exported, publish_dir, SECOND, FIRST)


def test_only_one_of_two_concurrent_publications_succeeds(exported, publish_dir, monkeypatch):
    models = {version: exported(version) for version in (FIRST, SECOND)}
    both_copied = threading.Barrier(2)
    copy_tree = storage.copy_tree

    def copy_and_wait(*args):
        copy_tree(*args)
        both_copied.wait()

    monkeypatch.setattr(storage, "copy_tree", copy_and_wait)
    results = {}

    def run(version: str):
        model_dir, metrics_file = models[version]
        try:
            results[version] = publish(model_dir, publish_dir, metrics_file, None)
        except UserError as error:
            results[version] = str(error)

    threads = [threading.Thread(target=run, args=(version,)) for version in models]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (winner,) = [version for version, result in results.items() if result == version]
    (loser,) = set(models) - {winner}
    assert f"is {winner} now" in results[loser]
    champion = read_champion(publish_dir)
    assert champion.version == winner
    assert storage.read_text(f"{champion.path}/variables/variables.index") == winner


def test_models_exported_in_the_same_second_do_not_mix(exported, publish_dir):
    publish_model(exported, publish_dir, FIRST, None)
    other, metrics_file = exported(FIRST, content="other")
    with pytest.raises(UserError, match="holds another model, exported in the same second"):
        publish(other, publish_dir, metrics_file, FIRST)
    assert storage.read_text(f"{publish_dir}/{FIRST}/variables/variables.index") == FIRST


# Ends the process at the n-th write, as SIGKILL would.
KILLED = """
    import os
    from components.publish import publish
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
    publish({model_dir!r}, {publish_dir!r}, {metrics_file!r}, {expected!r})
"""


def test_kill_at_any_write_keeps_the_champion_and_a_retry_succeeds(exported, publish_dir):
    publish_model(exported, publish_dir, FIRST, None)
    model_dir, metrics_file = exported(SECOND)
    kill_at, killed = 1, True
    while killed:
        code = textwrap.dedent(KILLED).format(
            kill_at=kill_at,
            model_dir=model_dir,
            publish_dir=publish_dir,
            metrics_file=metrics_file,
            expected=FIRST,
        )
        killed = subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 9
        champion = read_champion(publish_dir)
        assert champion.version == (FIRST if killed else SECOND)
        index = storage.read_text(f"{champion.path}/variables/variables.index")
        assert index == champion.version
        kill_at += 1
    assert kill_at > 5  # the claim, two files, the pointer (and its own write, locally)


def test_error_names_a_damaged_pointer(exported, publish_dir):
    storage.write_text(f"{publish_dir}/champion.json", "{}")
    with pytest.raises(
        UserError, match=r"Expected a JSON object with version, metrics in .*champion"
    ):
        publish_model(exported, publish_dir, FIRST, None)


def test_error_names_a_missing_champion(exported, publish_dir):
    publish_model(exported, publish_dir, FIRST, None)
    storage.delete_tree(f"{publish_dir}/{FIRST}")
    with pytest.raises(UserError, match=f"{FIRST}', which does not exist"):
        read_champion(publish_dir)


@pytest.mark.parametrize("manifest", ['{"created": "yesterday"}', '{"created": 5}'])
def test_manifest_without_a_time_is_an_error(exported, publish_dir, manifest):
    model_dir, metrics_file = exported(FIRST)
    storage.write_text(f"{model_dir}/manifest.json", manifest)
    with pytest.raises(UserError, match="Expected an ISO 8601 time for 'created'"):
        publish(model_dir, publish_dir, metrics_file, None)
    assert not storage.exists(publish_dir)


def test_missing_model_is_an_error(publish_dir, tmp_path):
    with pytest.raises(UserError, match=r"Cannot read '.*none/manifest.json'"):
        publish(str(tmp_path / "none"), publish_dir, "metrics.json", None)


def test_versions_are_in_utc(exported, publish_dir):
    model_dir, metrics_file = exported(FIRST)
    storage.write_text(f"{model_dir}/manifest.json", '{"created": "2026-01-02T04:04:05+01:00"}')
    assert publish(model_dir, publish_dir, metrics_file, None) == FIRST


def test_command(exported, tmp_path):
    model_dir, metrics_file = exported(FIRST)
    command = [sys.executable, "-m", "components.publish", f"--model_dir={model_dir}"]
    command += [f"--publish_dir={tmp_path}/published", f"--metrics_file={metrics_file}"]
    result = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert result.stdout == f"published: {tmp_path}/published/{FIRST}\n", result.stderr
    result = subprocess.run(command[:4], capture_output=True, text=True, cwd=ROOT)
    assert result.returncode == 1
    assert result.stderr == "error: --publish_dir must be given. Try --help.\n"
