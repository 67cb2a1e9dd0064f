"""Class names from a vocabulary file."""

import pytest

from trainer.common.errors import UserError
from trainer.data.vocabulary import read_names


@pytest.fixture
def vocabulary(tmp_path):
    def write(text: str, encoding="utf-8") -> str:
        file = tmp_path / "vocabulary.csv"
        file.write_bytes(text.encode(encoding))
        return str(file)

    return write


def test_without_a_vocabulary_classes_are_numbered():
    assert read_names("", 3) == ["class 0", "class 1", "class 2"]


@pytest.mark.parametrize(
    "text",
    [
        "Index,TrainVideoCount,KnowledgeGraphId,Name\n0,788288,/m/03bt1gh,Game\n1,5,/m/01mw1,Car\n",
        "label_id,label_name\n0,Game\n1,Car\n",
        "index,mid,display_name\n0,/m/03bt1gh,Game\n1,/m/01mw1,Car\n",
    ],
    ids=["2018", "2017", "AudioSet"],
)
def test_the_published_vocabularies(vocabulary, text):
    assert read_names(vocabulary(text), 2) == ["Game", "Car"]


def test_rows_may_come_in_any_order_and_be_missing_or_superfluous(vocabulary):
    path = vocabulary("Index,Name\n7,Beyond\n2,Car\n0,Game\n")
    assert read_names(path, 4) == ["Game", "class 1", "Car", "class 3"]


def test_a_nameless_class_is_numbered(vocabulary):
    # As are a few in the published vocabulary of 2017.
    assert read_names(vocabulary("Index,Name\n0,\n1,Car\n"), 2) == ["class 0", "Car"]


def test_names_may_hold_commas_quotes_and_any_script(vocabulary):
    path = vocabulary('Index,Name\n0,"Speech, ""loud"""\n1,Pokémon 日本\n')
    assert read_names(path, 2) == ['Speech, "loud"', "Pokémon 日本"]


@pytest.mark.parametrize(
    "text, message",
    [
        ("Number,Title\n0,Game\n", r"must have the columns Index,Name or .*'Number', 'Title'"),
        ("", r"must have the columns Index,Name"),
        ("Index,Name\n0,Game\nx,Car\n", r"class id in column Index; got 'x' in line 3"),
        ("Index,Name\n-1,Car\n", r"got '-1' in line 2"),
        ("Index,Name\n,Car\n", r"got '' in line 2"),
    ],
)
def test_a_bad_vocabulary_is_named(vocabulary, text, message):
    with pytest.raises(UserError, match=message) as raised:
        read_names(vocabulary(text), 3)
    assert "vocabulary.csv" in str(raised.value)


def test_windows_line_ends_and_byte_order_mark(vocabulary):
    path = vocabulary("Index,Name\r\n0,Game\r\n", "utf-8-sig")
    assert read_names(path, 1) == ["Game"]


def test_a_short_row_is_named(vocabulary):
    with pytest.raises(UserError, match="line 3"):
        read_names(vocabulary("Name,Index\nGame,0\nCar\n"), 3)


def test_a_missing_vocabulary(tmp_path):
    with pytest.raises(UserError, match=r"missing\.csv"):
        read_names(f"{tmp_path}/missing.csv", 3)


def test_a_vocabulary_that_is_no_text(tmp_path):
    file = tmp_path / "vocabulary.csv"
    file.write_bytes(bytes(range(256)))
    with pytest.raises(UserError, match=r"vocabulary\.csv"):
        read_names(str(file), 3)


def test_all_kinds_of_line_ends_are_read(tmp_path):
    path = tmp_path / "mac.csv"
    path.write_bytes(b"Index,Name\r0,Game\r1,Car\r")
    assert read_names(str(path), 2) == ["Game", "Car"]


@pytest.mark.parametrize(
    "content, message",
    [
        ("Index,Name\n0," + "x" * 140_000, "must be a CSV file: field larger than field limit"),
        ("Index,Name\n" + "9" * 5000 + ",Game", "must have a class id in column Index; got '999"),
    ],
)
def test_what_is_too_long_is_a_mistake(tmp_path, content, message):
    path = tmp_path / "vocabulary.csv"
    path.write_text(content)
    with pytest.raises(UserError, match=message):
        read_names(str(path), 2)
