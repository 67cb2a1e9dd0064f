import contextlib
import resource
import threading

import pytest

from trainer.common import storage
from trainer.common.errors import UserError


@pytest.fixture(params=["local", "gs"])
def folder(request, tmp_path) -> str:
    """An empty folder: once on this machine, once in a bucket."""
    if request.param == "local":
        return str(tmp_path)
    return request.getfixturevalue("gcs_bucket") + "/folder"


@contextlib.contextmanager
def full_disk():
    """No file can grow beyond 1000 bytes. For no longer than a call: pytest writes files too."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def write_all(folder: str, *names: str) -> list[str]:
    paths = [f"{folder}/{name}" for name in names]
    for path in paths:
        storage.write_bytes(path, b"x")
    return paths


def test_reads_what_it_wrote(folder):
    path = storage.join(folder, "new", "a.txt")
    storage.write_text(path, "één")
    assert storage.read_text(path) == "één"
    assert storage.read_bytes(path) == "één".encode()
    assert storage.size(path) == 5
    storage.write_bytes(path, b"")
    assert storage.read_bytes(path) == b""


def test_opens_for_reading_and_seeking(folder):
    storage.write_bytes(f"{folder}/a", b"0123456789")
    with storage.open_read(f"{folder}/a") as file:
        assert file.read(3) == b"012"
        file.seek(-2, 2)
        assert file.read() == b"89"


def test_exists(folder):
    write_all(folder, "b/c")
    assert storage.exists(f"{folder}/b/c")
    assert storage.exists(f"{folder}/b")
    assert storage.exists(f"{folder}/b/")
    assert not storage.exists(f"{folder}/b/d")
    assert not storage.exists(f"{folder}/b/c/d")


def test_glob_gives_each_file_once_and_sorted(folder):
    a, b, c, _ = write_all(folder, "a0.tfrecord", "a1.tfrecord", "b0.tfrecord", "x/a2.tfrecord")
    assert storage.glob(f"{folder}/a*.tfrecord") == [a, b]
    assert storage.glob(f"{folder}/?0.tfrecord , {folder}/a[01]*") == [a, b, c]
    assert storage.glob(c) == [c]


@pytest.mark.parametrize("pattern", ["c*", "x", "a", "*/*/*"])
def test_glob_names_the_pattern_without_a_file(folder, pattern):
    good, _ = write_all(folder, "ab", "x/a")
    with pytest.raises(UserError, match="No file matches") as error:
        storage.glob(f"{good},{folder}/{pattern}")
    assert repr(f"{folder}/{pattern}") in str(error.value)


@pytest.mark.parametrize("pattern", ["", " , "])
def test_glob_wants_a_pattern(pattern):
    with pytest.raises(UserError, match="Expected a file name or pattern"):
        storage.glob(pattern)


def test_missing_file_is_a_user_error(folder):
    for read in (storage.read_bytes, storage.read_text, storage.open_read, storage.size):
        with pytest.raises(UserError, match=f"Cannot read '{folder}/none': [Nn]o such"):
            read(f"{folder}/none")


def test_bytes_that_are_no_text(folder):
    storage.write_bytes(f"{folder}/a", b"\xff")
    with pytest.raises(UserError, match=f"Expected UTF-8 text in '{folder}/a'"):
        storage.read_text(f"{folder}/a")


def test_reads_json(tmp_path):
    path = str(tmp_path / "a.json")
    storage.write_text(path, '{"a": 1, "b": null}')
    assert storage.read_json(path, "a", "b") == {"a": 1, "b": None}
    with pytest.raises(
        UserError, match=r"Expected a JSON object with a, c in '.*a.json'; it holds"
    ):
        storage.read_json(path, "a", "c")


@pytest.mark.parametrize("text", ["", "[1]", "{", "NaN"])
def test_other_text_is_no_json_object(tmp_path, text):
    path = str(tmp_path / "a.json")
    storage.write_text(path, text)
    with pytest.raises(UserError, match=r"Expected a JSON object in"):
        storage.read_json(path)


def test_copies_a_tree_anywhere(folder, tmp_path, gcs_bucket):
    write_all(f"{folder}/from", "a", "b/c", "b/d/e")
    for target in (f"{tmp_path}/to", f"{gcs_bucket}/to"):
        storage.copy_tree(f"{folder}/from", target)
        assert storage.files_below(target) == ["a", "b/c", "b/d/e"]
        assert storage.read_bytes(f"{target}/b/d/e") == b"x"


def test_a_tree_to_copy_has_files(folder, tmp_path):
    with pytest.raises(UserError, match="Expected a folder with files"):
        storage.copy_tree(f"{folder}/none", f"{tmp_path}/to")
    assert not (tmp_path / "to").exists()


def test_deletes_a_tree_and_nothing_beside_it(folder):
    write_all(folder, "a/b", "a/c/d", "ab")
    storage.delete_tree(f"{folder}/a")
    storage.delete_tree(f"{folder}/a")
    assert storage.files_below(folder) == ["ab"]


def test_replaces_only_what_was_expected(folder):
    path = f"{folder}/pointer"
    assert not storage.replace_if(path, b"2", expected=b"1")
    assert storage.replace_if(path, b"1", expected=None)
    assert not storage.replace_if(path, b"2", expected=None)
    assert storage.replace_if(path, b"2", expected=b"1")
    assert storage.read_bytes(path) == b"2"
    assert storage.replace_if(path, b"2", expected=b"1")  # again, after an answer got lost


def test_no_swap_of_many_is_lost(folder):
    path = f"{folder}/pointer"
    storage.write_bytes(path, b"")

    def append(letter: bytes) -> None:
        for _ in range(5):
            swapped = False
            while not swapped:
                old = storage.read_bytes(path)
                swapped = storage.replace_if(path, old + letter, expected=old)

    threads = [threading.Thread(target=append, args=(letter,)) for letter in (b"a", b"b", b"c")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(storage.read_text(path)) == sorted("abc" * 5)


def test_a_full_disk_leaves_the_old_file(tmp_path):
    path = tmp_path / "a"
    storage.write_bytes(str(path), b"old")
    with pytest.raises(UserError, match=f"Cannot write '{path}': File too large"), full_disk():
        storage.write_bytes(str(path), b"new" * 1000)
    with pytest.raises(UserError, match=f"Cannot write '{path}': File too large"), full_disk():
        storage.replace_if(str(path), b"new" * 1000, expected=b"old")
    assert path.read_bytes() == b"old"
    assert storage.glob(f"{tmp_path}/*") == [str(path)]
    assert not list(tmp_path.glob(".*.tmp"))


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("old")
    with pytest.raises(UserError, match=f"Cannot write '{tmp_path}/file/b/a'"):
        storage.write_text(f"{tmp_path}/file/b/a", "new")
    assert (tmp_path / "file").read_text() == "old"


def test_a_folder_in_the_way_of_a_file(tmp_path):
    (tmp_path / "a").mkdir()
    with pytest.raises(UserError, match=f"Cannot write '{tmp_path}/a': Is a directory"):
        storage.write_text(f"{tmp_path}/a", "new")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


@pytest.mark.parametrize("path", ["s3://bucket/key", "http://host/key", ""])
def test_other_paths_are_refused(path):
    with pytest.raises(UserError, match="Expected a"):
        storage.read_bytes(path)
    with pytest.raises(UserError, match="Expected a"):
        storage.write_bytes(path, b"")


@pytest.mark.parametrize("path", ["gs://", "gs:///key", "gs://Bucket/key"])
def test_a_bucket_has_a_name(path):
    with pytest.raises(UserError, match="Expected gs://BUCKET/KEY with a valid bucket name"):
        storage.write_bytes(path, b"")


def test_a_bucket_is_no_file(gcs_bucket):
    for path in (gcs_bucket, gcs_bucket + "/"):
        with pytest.raises(UserError, match=f"'{path}' names a bucket"):
            storage.write_bytes(path, b"")


def test_a_bucket_that_does_not_exist(gcs_bucket):
    for call in (
        lambda: storage.glob(f"{gcs_bucket}x/*"),
        lambda: storage.write_bytes(f"{gcs_bucket}x/a", b""),
        lambda: storage.read_bytes(f"{gcs_bucket}x/a"),
    ):
        with pytest.raises(UserError, match=rf"Cannot .* '{gcs_bucket}x/.': [^{{}}]+\.$"):
            call()


def test_large_files_travel_in_pieces(folder, monkeypatch):
    monkeypatch.setattr(storage, "_CHUNK", 2**18)
    data = bytes(range(256)) * 2**12 + b"end"
    storage.write_bytes(f"{folder}/from/a", data)
    storage.copy_tree(f"{folder}/from", f"{folder}/to")
    assert storage.read_bytes(f"{folder}/to/a") == data


def test_no_credentials(monkeypatch, tmp_path):
    monkeypatch.delenv("STORAGE_EMULATOR_HOST", raising=False)
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "none.json"))
    storage._client.cache_clear()
    with pytest.raises(UserError, match=r"Cannot read 'gs://bucket/a': .*none\.json"):
        storage.read_bytes("gs://bucket/a")
