"""The reader of bodies on its own: what is too much, too slow, and who gives way to whom."""

import asyncio

import pytest
from fastapi import Request

from ingress.bodies import BodyReader
from ingress.problems import Problem
from ingress.strangers import strangers_bodies


class Sender:
    """A client whose chunks come when the test says so."""

    def __init__(self):
        self.chunks = asyncio.Queue()

    def request(self):
        return Request({"type": "http", "headers": []}, self.chunks.get)

    def send(self, chunk, *, more=True):
        self.chunks.put_nowait({"type": "http.request", "body": chunk, "more_body": more})


async def read(reader, sender, max_bytes=1000):
    async with reader.reading(sender.request(), types=None, max_bytes=max_bytes) as body:
        return body


async def outcome(task):
    try:
        return await task
    except Problem as err:
        return err.code


async def settle():
    for _ in range(20):
        await asyncio.sleep(0)


def test_one_body_too_many_makes_the_oldest_unfinished_one_give_way():
    async def scene():
        reader = BodyReader(most_unfinished=2, gives_way=True)
        senders = [Sender() for _ in range(3)]
        tasks = []
        for each in senders:
            tasks.append(asyncio.create_task(read(reader, each)))
            await settle()
        for each in senders[1:]:
            each.send(b"whole", more=False)
        return [await outcome(each) for each in tasks]

    assert asyncio.run(scene()) == ["busy", b"whole", b"whole"]


def test_where_bytes_run_out_the_oldest_unfinished_body_gives_way_and_its_bytes_are_free():
    async def scene():
        reader = BodyReader(most_bytes=10, gives_way=True)
        stalled, quick = Sender(), Sender()
        first = asyncio.create_task(read(reader, stalled))
        stalled.send(b"12345678")
        await settle()
        second = asyncio.create_task(read(reader, quick))
        quick.send(b"123456", more=False)
        return await outcome(first), await outcome(second), reader._held

    assert asyncio.run(scene()) == ("busy", b"123456", 0)


def test_a_body_that_does_not_fit_alone_is_refused():
    async def scene():
        reader, sender = BodyReader(most_bytes=10, gives_way=True), Sender()
        sender.send(b"12345678901", more=False)
        return await outcome(asyncio.create_task(read(reader, sender))), reader._held

    assert asyncio.run(scene()) == ("busy", 0)


def test_a_whole_body_does_not_give_way_while_it_is_worked_on():
    async def scene():
        reader, first, second = BodyReader(most_bytes=10, gives_way=True), Sender(), Sender()
        first.send(b"12345678", more=False)
        second.send(b"12345678", more=False)
        async with reader.reading(first.request(), types=None, max_bytes=100) as body:
            refused = await outcome(asyncio.create_task(read(reader, second)))
            return body, refused

    assert asyncio.run(scene()) == (b"12345678", "busy")


def test_without_giving_way_the_newcomer_is_refused():
    async def scene():
        reader, first, second = BodyReader(most_bytes=10), Sender(), Sender()
        early = asyncio.create_task(read(reader, first))
        first.send(b"12345678")
        await settle()
        late = asyncio.create_task(read(reader, second))
        second.send(b"12345678", more=False)
        refused = await outcome(late)
        first.send(b"9", more=False)
        return await outcome(early), refused

    assert asyncio.run(scene()) == (b"123456789", "busy")


def test_an_empty_body_is_soon_too_slow():
    async def scene():
        return await outcome(asyncio.create_task(read(BodyReader(within_s=0.01), Sender())))

    assert asyncio.run(scene()) == "too_slow"


def test_bytes_that_come_earn_time_for_those_that_are_to_come():
    async def scene():
        reader, sender = BodyReader(within_s=0.05, least_bytes_per_s=1), Sender()
        task = asyncio.create_task(read(reader, sender))
        sender.send(b"x" * 60)  # a minute
        await asyncio.sleep(0.2)
        sender.send(b"y", more=False)
        return await outcome(task)

    assert asyncio.run(scene()) == b"x" * 60 + b"y"


def test_bodies_are_read_no_faster_than_is_good_for_others():
    async def scene():
        reader, senders = BodyReader(most_bytes_per_s=1000), [Sender() for _ in range(3)]
        for each in senders:
            each.send(b"x" * 100, more=False)
        started = asyncio.get_running_loop().time()
        await asyncio.gather(*(read(reader, each) for each in senders))
        return asyncio.get_running_loop().time() - started

    assert asyncio.run(scene()) >= 0.19


@pytest.mark.parametrize(("already", "code"), [(0, None), (95, "busy")])
def test_bytes_that_another_reader_read_are_counted(already, code):
    reader = BodyReader(most_bytes=100)

    def hold():
        with reader.holding(already), reader.holding(10):
            return

    try:
        found = hold()
    except Problem as err:
        found = err.code
    assert (found, reader._held) == (code, 0)


def test_strangers_share_less_than_those_who_are_known():
    strangers, known = strangers_bodies(), BodyReader()

    assert strangers.most_bytes * 4 <= known.most_bytes
    assert (strangers.within_s, strangers.most_unfinished) == (5, 64)
