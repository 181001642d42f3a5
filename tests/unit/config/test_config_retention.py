"""ENTREGA_KEEP: how long the ledger keeps what it no longer needs."""

from datetime import timedelta

import pytest

from config.retention import Periods, periods_of
from config.settings import ConfigurationError, load_settings


def test_what_is_left_out_keeps_its_default() -> None:
    assert periods_of("") == Periods()
    assert periods_of("payloads=7, events=10") == Periods(payloads=timedelta(days=7), events=timedelta(days=10))


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("payload=7", "unknown: payload"),
        ("payloads", "wanted days"),
        ("payloads=0", "wanted days"),
        ("payloads=-1", "wanted days"),
        ("payloads=1.5", "wanted days"),
        ("payloads=99999", "wanted days"),
        ("records=10", "records must be at least"),
        ("records=60", "records must be at least"),
        ("events=8", "events must be at least 9"),
    ],
)
def test_a_period_that_cannot_be_kept_is_refused_at_the_start(text: str, word: str) -> None:
    with pytest.raises(ConfigurationError, match=f"(?s)ENTREGA_KEEP.*{word}"):
        load_settings({"entrega_keep": text})
