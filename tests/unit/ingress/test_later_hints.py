import queue

from delivery.ids import new_id
from delivery.ports import Hint
from ingress.later_hints import LaterHints


class Slow:
    """Fails at the first batch, and hands the later ones on."""

    def __init__(self):
        self.heard = queue.Queue()
        self.calls = 0

    def send(self, hints):
        self.calls += 1
        self.heard.put(hints)
        if self.calls == 1:
            raise RuntimeError("an invented fault")
        return len(hints)

    def backlog(self):
        return 7


def test_hints_are_taken_at_once_and_published_later_whatever_fails():
    slow = Slow()
    later = LaterHints(slow)
    first, second = Hint(new_id(), "create_lead"), Hint(new_id(), "create_lead")

    taken = later.send([first])
    heard = slow.heard.get(timeout=60)
    later.send([second])

    assert (taken, heard, slow.heard.get(timeout=60)) == (1, [first], [second])
    assert later.backlog() == 7
