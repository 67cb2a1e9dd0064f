"""Which version of a served folder is the champion."""

import pytest

from trainer.serving.server.versions import champion_version


@pytest.mark.parametrize(
    "versions, expected",
    [([], None), (["1", "2", "10"], 10), (["1", "copy-11", ".12"], 1)],
)
def test_champion_is_the_highest_version(tmp_path, versions, expected):
    for version in versions:
        (tmp_path / version).mkdir()
        (tmp_path / version / "saved_model.pb").touch()
    (tmp_path / "99").mkdir()  # without a SavedModel
    assert champion_version(str(tmp_path)) == expected
