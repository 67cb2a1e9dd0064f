"""Which version of a served folder is the champion."""

import json

import pytest

from trainer.serving.server.versions import champion_version


@pytest.mark.parametrize(
    "versions, champion, expected",
    [
        ([], None, None),
        (["1", "2", "10"], None, 10),
        (["1", "copy-11", ".12"], None, 1),
        (["1", "2"], "1", 1),
        (["1", "2"], "3", 2),  # not there (yet)
        (["1", "2"], None, 2),
    ],
)
def test_the_champion_is_named_or_the_highest(tmp_path, versions, champion, expected):
    for version in versions:
        (tmp_path / version).mkdir()
        (tmp_path / version / "saved_model.pb").touch()
    (tmp_path / "99").mkdir()  # without a SavedModel
    if champion:
        (tmp_path / "champion.json").write_text(json.dumps({"version": champion}))
    assert champion_version(str(tmp_path)) == expected
