"""An answer that many ask for is found once."""

import asyncio

from ingress.pages import Kept


class Clock:
    at = 0.0

    def __call__(self):
        return self.at


def test_many_who_ask_at_once_cause_one_question():
    asked = []

    async def scene():
        kept = Kept(lambda: asked.append(1) or len(asked), for_s=5, ticks=Clock())
        return await asyncio.gather(*(kept.get() for _ in range(40)))

    assert (asyncio.run(scene()), len(asked)) == ([1] * 40, 1)


def test_an_answer_is_kept_for_its_time():
    clock, asked = Clock(), []

    async def scene():
        kept = Kept(lambda: asked.append(1) or len(asked), for_s=5, ticks=clock)
        found = [await kept.get()]
        clock.at = 4.9
        found.append(await kept.get())
        clock.at = 5.0
        return [*found, await kept.get()]

    assert asyncio.run(scene()) == [1, 1, 2]


def test_a_question_that_failed_is_asked_again():
    def ask(answers=iter([ValueError("away"), 7])):  # noqa: B008 - one sequence for all calls
        found = next(answers)
        if isinstance(found, Exception):
            raise found
        return found

    async def scene():
        kept = Kept(ask, for_s=5, ticks=Clock())
        try:
            await kept.get()
        except ValueError:
            return await kept.get()

    assert asyncio.run(scene()) == 7
