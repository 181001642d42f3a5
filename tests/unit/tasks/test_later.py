import queue
import threading

from delivery.ids import new_id
from delivery.ports import Hint
from tasks.later import Later


def hint():
    return Hint(new_id(), "create_lead")


def test_hints_are_published_by_a_thread_that_outlives_a_fault():
    heard = queue.Queue()

    def publish(hints):
        heard.put(hints)
        if heard.qsize() == 1:
            raise RuntimeError("an invented fault")

    later = Later(publish)
    first, second = hint(), hint()

    later.put([first])
    assert later.flush(60)
    later.put([second])

    assert later.flush(60)
    assert [heard.get_nowait(), heard.get_nowait()] == [[first], [second]]


def test_hints_that_find_no_room_are_lost_and_nobody_waits(capsys, monkeypatch):
    monkeypatch.setattr("tasks.later._MOST_WAITING", 3)
    taken, go_on, heard = threading.Event(), threading.Event(), []

    def publish(hints):
        taken.set()
        go_on.wait(60)
        heard.extend(hints)

    later = Later(publish)
    later.put([hint()])
    assert taken.wait(60)
    later.put([hint() for _ in range(5)])

    assert not later.flush(0.01)
    go_on.set()
    assert later.flush(60)
    assert len(heard) == 4
    assert "hints_lost=2" in capsys.readouterr().out
