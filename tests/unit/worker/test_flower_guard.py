import stat

import pytest

from worker.flower import flower_password, password_file


@pytest.mark.parametrize("left", ["", "\n"])
def test_an_empty_password_file_is_not_an_empty_password(tmp_path, left):
    password_file(tmp_path).write_text(left)

    password = flower_password(tmp_path)

    assert len(password) >= 24
    assert flower_password(tmp_path) == password


def test_the_password_is_readable_by_its_owner_only(tmp_path):
    flower_password(tmp_path)

    assert stat.S_IMODE(password_file(tmp_path).stat().st_mode) == 0o600
