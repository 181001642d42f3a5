"""What `entrega doctor` makes of one account's probe."""

import pytest

from delivery.errors import Retryable
from ingress.doctor import probed


class Api:
    def __init__(self, fault=None):
        self.fault = fault

    def probe(self):
        if self.fault:
            raise self.fault
        return "token accepted"


@pytest.mark.parametrize(
    ("fault", "note", "well"),
    [
        (None, "token accepted", True),
        (Retryable("no route", code="not_sent"), "not_sent: no route", False),
        (KeyError("items"), "its adapter failed with KeyError; the worker's log of the health task says where", False),
    ],
)
def test_whatever_comes_of_a_probe_is_a_finding(fault, note, well):
    assert probed(Api(fault)) == (note, well)
