import re
from pathlib import Path

from ledger.migrations import versions

FILES = sorted(Path(str(versions.__file__)).parent.glob("[0-9]*.py"))


def named(file, what):
    return re.search(rf'^{what} = (?:"(\d+)"|None)$', file.read_text(), re.MULTILINE)[1]


def test_each_migration_follows_the_one_before_it():
    numbers = [file.name[:4] for file in FILES]

    assert len(numbers) == len(set(numbers))
    assert [named(file, "revision") for file in FILES] == numbers
    assert [named(file, "down_revision") for file in FILES] == [None, *numbers[:-1]]
