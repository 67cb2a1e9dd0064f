"""The command line: what absl takes, dataclass in, one clear message out."""

import os
import subprocess
import sys
from dataclasses import dataclass

import pytest

from pipeline.paths import ROOT
from trainer.common.command_line import flag, help_text, parse
from trainer.common.errors import UserError, without_traceback


@dataclass(frozen=True)
class Config:
    """Bakes bread.

    More that --help leaves out.
    """

    flour: str = flag("wheat", "What to bake of.", "Dough")
    grams: int = flag(500, "How much flour.", "Dough")
    eggs: int | None = flag(None, "How many eggs.", "Dough")
    heat: float = flag(220.0, "Degrees Celsius.", "Oven")
    fan: bool = flag(False, "Circulate the air.", "Oven")


def parsed(*argv: str) -> Config:
    return parse(Config, [f"{ROOT}/trainer/bakery/bake.py", *argv])


def test_no_flags_give_the_defaults():
    assert parsed() == Config("wheat", 500, None, 220.0, False)


@pytest.mark.parametrize(
    "argv, expected",
    [
        (["--flour=rye"], {"flour": "rye"}),
        (["--flour", "rye"], {"flour": "rye"}),
        (["-flour=rye"], {"flour": "rye"}),
        (["--flour="], {"flour": ""}),
        (["--flour=a=b, c"], {"flour": "a=b, c"}),
        (["--grams=-7"], {"grams": -7}),
        (["--eggs=2"], {"eggs": 2}),
        (["--heat=1e2"], {"heat": 100.0}),
        (["--heat=3"], {"heat": 3.0}),
        (["--fan"], {"fan": True}),
        (["--nofan"], {"fan": False}),
        (["--fan=true"], {"fan": True}),
        (["--fan=1"], {"fan": True}),
        (["--fan", "--fan=False"], {"fan": False}),
        (["--grams=1", "--grams=2"], {"grams": 2}),
    ],
)
def test_takes_what_absl_takes(argv, expected):
    assert parsed(*argv) == Config(**expected)


def test_a_float_flag_is_a_float_even_from_a_whole_number():
    assert isinstance(parsed("--heat=3").heat, float)


def test_flags_from_a_file(tmp_path):
    file = tmp_path / "flags"
    file.write_text("# For Sundays\n--flour=spelt\n\n--fan\n--grams=300\n")
    expected = Config(flour="spelt", fan=True, grams=250)
    assert parsed(f"--flagfile={file}", "--grams=250") == expected
    assert parsed("--flagfile", str(file), "--grams=250") == expected


def test_a_flagfile_that_is_not_there(tmp_path):
    with pytest.raises(UserError, match=r"(?i)flagfile.*missing"):
        parsed(f"--flagfile={tmp_path}/missing")


@pytest.mark.parametrize(
    "argv, message",
    [
        (["--flower=rye"], r"Unknown command line flag 'flower'\. Did you mean: flour"),
        (["--xyzzy=1"], r"Unknown command line flag 'xyzzy'"),
        (["--grams=many"], r"--grams.*many"),
        (["--grams=1.5"], r"--grams.*1\.5"),
        (["--eggs="], r"--eggs"),
        (["--heat=hot"], r"--heat.*hot"),
        (["--fan=maybe"], r"--fan.*maybe"),
        (["--grams"], r"--?grams"),
        (["rye"], r"must be a --flag; got 'rye'"),
        (["--fan", "rye"], r"must be a --flag; got 'rye'"),
        (["--", "rye"], r"must be a --flag; got 'rye'"),
    ],
)
def test_a_mistake_is_one_message_that_points_to_help(argv, message):
    with pytest.raises(UserError, match=message) as raised:
        parsed(*argv)
    assert str(raised.value).endswith("Try --help.")


@pytest.mark.parametrize(
    "argument, expected",
    [
        ("--grams=many", "flag --grams=many: expected an integer, got 'many'. Try --help."),
        ("--heat=hot", "flag --heat=hot: expected a number, got 'hot'. Try --help."),
    ],
)
def test_a_value_of_the_wrong_type_is_named_in_plain_words(argument, expected):
    with pytest.raises(UserError) as raised:
        parsed(argument)
    assert str(raised.value) == expected


def test_help_names_every_flag_with_group_type_meaning_and_default(capsys):
    with pytest.raises(SystemExit) as ended:
        parsed("--help")
    assert ended.value.code == 0
    assert capsys.readouterr().out == (
        "usage: python -m trainer.bakery.bake [--flag=value ...] [--flagfile=FILE]\n"
        "\n"
        "Bakes bread.\n"
        "\n"
        "Dough:\n"
        "  --flour=TEXT\n"
        "      What to bake of. (default: wheat)\n"
        "  --grams=INTEGER\n"
        "      How much flour. (default: 500)\n"
        "  --eggs=INTEGER\n"
        "      How many eggs. (default: none)\n"
        "\n"
        "Oven:\n"
        "  --heat=NUMBER\n"
        "      Degrees Celsius. (default: 220.0)\n"
        "  --[no]fan\n"
        "      Circulate the air. (default: False)\n"
    )


def test_helpfull_lists_all_flags_as_absl_does(capsys):
    with pytest.raises(SystemExit) as ended:
        parsed("--helpfull", "--flower=rye")
    assert ended.value.code == 0
    text = capsys.readouterr().out
    assert text.startswith("usage: python -m trainer.bakery.bake [--flag=value ...]")
    eggs = "trainer.bakery.bake:\n  --eggs: How many eggs.\n    (an integer)\n"
    assert f"\nBakes bread.\n\n{eggs}" in text
    assert "  --[no]fan: Circulate the air.\n    (default: 'false')\n" in text
    for name in ("flour", "grams", "heat", "[no]help", "[no]helpfull", "flagfile", "undefok"):
        assert text.count(f"\n  --{name}:") == 1


@pytest.mark.parametrize("argument", ["--help", "--helpfull"])
def test_help_may_be_read_in_part(argument, pytestconfig):
    read_end, write_end = os.pipe()
    os.close(read_end)  # as `head` does once it has enough
    command = [sys.executable, "-m", "trainer.train", argument]
    process = subprocess.run(
        command, stdout=write_end, stderr=subprocess.PIPE, cwd=pytestconfig.rootpath
    )
    os.close(write_end)
    assert (process.returncode, process.stderr) == (0, b"")


def test_a_mistyped_flag_is_told_in_whole_sentences():
    with pytest.raises(UserError) as raised:
        parsed("--gram=1")
    assert str(raised.value) == (
        "Unknown command line flag 'gram'. Did you mean: grams? Try --help."
    )


def test_help_shows_each_group_once():
    @dataclass
    class Scattered:
        """Bakes."""

        flour: str = flag("", "What of.", "Dough")
        heat: int = flag(220, "How hot.", "Oven")
        eggs: int = flag(2, "How many.", "Dough")

    text = help_text(Scattered, "p")
    assert text.count("Dough:") == text.count("Oven:") == 1
    assert text.index("--eggs") < text.index("--heat")
    assert "What of. (default: none)" in text


def test_help_wins_over_a_mistake_beside_it(capsys):
    with pytest.raises(SystemExit) as ended:
        parsed("--flower=rye", "--help")
    assert ended.value.code == 0


def test_long_help_is_wrapped():
    @dataclass
    class Wordy:
        """Talks."""

        words: str = flag("", "word " * 60, "Talk")

    assert max(map(len, help_text(Wordy, "p").splitlines())) <= 100


def test_a_users_mistake_ends_the_command_with_its_message_alone():
    with pytest.raises(SystemExit) as ended, without_traceback():
        raise UserError("No flour.")
    assert ended.value.code == "error: No flour."  # SystemExit prints it, and exits with 1
    assert ended.value.__suppress_context__


def test_a_fault_of_ours_keeps_its_traceback():
    with pytest.raises(ZeroDivisionError), without_traceback():
        _ = 1 / 0
