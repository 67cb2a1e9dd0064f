import os

import pytest

from trainer.common import storage
from trainer.common.errors import UserError
from trainer.data import manifest
from trainer.data.tfrecord import write_records


@pytest.fixture(params=["local", "gs"])
def folder(request, tmp_path):
    if request.param == "gs":
        return request.getfixturevalue("gcs_bucket") + "/data"
    return str(tmp_path)


def write(folder: str, **files: list[bytes]):
    for name, records in files.items():
        write_records(f"{folder}/{name}/records", records)


def listed(folder: str) -> manifest.Manifest:
    """Returns the manifest of a folder's shards, as validation makes it."""
    paths = storage.glob(f"{folder}/shard*/records")
    scanned = [(path, 1, manifest.checksum(path)) for path in paths]
    return manifest.create(storage.statuses(paths), scanned)


def test_a_manifest_reads_as_it_was_written(folder):
    write(folder, shard1=[b"b"], shard0=[b"a"])
    files = listed(folder)
    path = manifest.store(files, folder)
    assert manifest.read(path) == files
    assert files.paths == [f"{folder}/shard0/records", f"{folder}/shard1/records"]
    assert files.num_records == 2
    assert manifest.store(files, folder) == path


def test_a_pattern_or_a_manifest_is_expanded_to_files(folder):
    write(folder, shard0=[b"a"])
    path = manifest.store(listed(folder), folder)
    write(folder, shard1=[b"b"])
    assert manifest.expand(f"{folder}/shard*/records") == [
        f"{folder}/shard0/records",
        f"{folder}/shard1/records",
    ]
    assert manifest.expand(path) == [f"{folder}/shard0/records"]


@pytest.mark.parametrize(
    "content, change", [([b"other"], "shard1/records has "), (None, "does not exist")]
)
def test_a_file_that_changed_or_vanished_is_an_error(folder, content, change):
    write(folder, shard0=[b"a"], shard1=[b"b"])
    path = manifest.store(listed(folder), folder)
    storage.delete_tree(f"{folder}/shard1")
    if content:
        write(folder, shard1=content)
    with pytest.raises(UserError, match=f"1 of the 2 files in .* changed .*{change}"):
        manifest.expand(path)


def test_other_records_of_the_same_size_are_an_error(folder):
    write(folder, shard0=[b"a"])
    path = manifest.store(listed(folder), folder)
    write(folder, shard0=[b"b"])
    with pytest.raises(UserError, match=r"shard0/records (contains other records|has generation)"):
        manifest.expand(path)


def test_a_local_file_may_be_touched(tmp_path):
    write(str(tmp_path), shard0=[b"a"])
    path = manifest.store(listed(str(tmp_path)), str(tmp_path))
    os.utime(tmp_path / "shard0/records", (1, 1))
    assert manifest.expand(path) == [f"{tmp_path}/shard0/records"]


def test_the_content_key_depends_on_records_and_their_order_alone(tmp_path):
    def key(folder: str, **files) -> str:
        write(f"{tmp_path}/{folder}", **files)
        return listed(f"{tmp_path}/{folder}").content_key

    first = key("a", shard0=[b"a", b"b"], shard1=[b"c"])
    assert key("b", shard0=[b"a", b"b"], shard1=[b"c"]) == first
    assert key("c", shard0=[b"c"], shard1=[b"a", b"b"]) != first
    assert key("d", shard0=[b"b", b"a"], shard1=[b"c"]) != first


def test_what_is_no_manifest_is_told(tmp_path):
    path = tmp_path / "x.manifest.json"
    path.write_text('{"files": [{"path": "a"}]}')
    with pytest.raises(UserError, match="is not a data manifest"):
        manifest.read(str(path))
