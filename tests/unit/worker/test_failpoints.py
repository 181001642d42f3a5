"""Failpoints strike once, where they are armed, and deceive in the way they say."""

import os
import subprocess
import sys
from datetime import UTC, datetime
from uuid import UUID

import pytest

from delivery.commands import SendWhatsApp
from delivery.errors import Ambiguous, LedgerUnavailable
from delivery.outcomes import Receipt
from delivery.ports import Order
from worker.failpoints import BrittleProvider, Failpoints

IDENTITY = UUID("01936d5c-0000-7000-8000-000000000003")
COMMAND = SendWhatsApp.model_validate({"to": "+5511987650042", "text": "Olá"})
ORDER = Order(IDENTITY, "whatsapp:default", COMMAND, 1, datetime(2026, 11, 22, tzinfo=UTC))
REACH_AND_SURVIVE = """
import sys
from pathlib import Path
from worker.failpoints import Failpoints
Failpoints(Path(sys.argv[1])).reach("after_claim", RuntimeError)
print("survived")
"""


class _Recording:
    """A provider that remembers what it sent."""

    def __init__(self):
        self.sent = []

    def send(self, order):
        self.sent.append(order.delivery_id)
        return Receipt("wamid.1")


@pytest.fixture
def points(tmp_path):
    return Failpoints(tmp_path)


def test_a_point_that_is_not_armed_lets_everything_pass(points):
    points.reach("after_claim", LedgerUnavailable)


def test_an_armed_point_strikes_once_and_tells_whom(points, tmp_path):
    points.arm("after_claim", "fail", note="7")

    with pytest.raises(LedgerUnavailable):
        points.reach("after_claim", LedgerUnavailable)
    points.reach("after_claim", LedgerUnavailable)

    assert [each.name for each in tmp_path.iterdir()] == [f"after_claim.{os.getpid()}.7"]


def test_an_armed_point_leaves_the_others_alone(points):
    points.arm("before_settle", "fail")

    points.reach("after_commit", LedgerUnavailable)


@pytest.mark.parametrize(("point", "sent"), [("before_send", []), ("after_send", [IDENTITY])])
def test_a_deceived_send_reports_a_lost_answer_whatever_was_done(points, point, sent):
    provider = _Recording()
    points.arm(point, "fail")

    with pytest.raises(Ambiguous):
        BrittleProvider(provider, points).send(ORDER)

    assert provider.sent == sent


def test_exit_ends_the_process_at_the_point(points, tmp_path):
    points.arm("after_claim", "exit")

    ended = subprocess.run([sys.executable, "-c", REACH_AND_SURVIVE, str(tmp_path)], capture_output=True, check=False)

    assert (ended.returncode, ended.stdout) == (86, b"")
