"""The client against the real door through a network that loses answers: one effect, and the truth about it."""

import threading
import time

import pytest
from entrega_client import Entrega, KeyReused, NotFound, Refused, Unavailable

from sandbox.proxy import Hurt, Proxy

LEAD = {"nome": "Ana Teste", "email": "ana.teste@exemplo.com.br", "interesse": "produto_a"}


@pytest.fixture
def proxy(door):
    proxy = Proxy(int(door.url.rpartition(":")[2])).start()
    yield proxy
    proxy.stop()


@pytest.fixture
def entrega(door, proxy):
    with Entrega(proxy.url, door.key, deadline_s=60) as client:
        yield client


def heal_later(proxy, kind):
    """Heal a while after it struck."""

    def heal():
        deadline = time.monotonic() + 60
        while not proxy.struck[kind] and time.monotonic() < deadline:
            time.sleep(0.02)
        time.sleep(1)
        proxy.heal()

    healing = threading.Thread(target=heal)
    healing.start()
    return healing


@pytest.mark.parametrize("kind", ["lose_answer", "cut", "reset", "black_hole"])
def test_a_lead_whose_answers_are_lost_is_one_delivery(entrega, proxy, archive, kind):
    proxy.hurt(Hurt(kind))
    healing = heal_later(proxy, kind)

    receipt = entrega.create_lead(**LEAD)

    healing.join()
    assert proxy.struck[kind] > 0
    assert archive.counts() == {("ready", "create_lead"): 1}
    assert entrega.check(receipt.id).recipient == "a***@exemplo.com.br"


def test_many_whose_answers_are_lost_are_one_delivery_each(entrega, proxy, archive):
    items = [{"kind": "create_lead", **LEAD, "email": f"ana{n}@exemplo.com.br"} for n in range(20)]
    proxy.hurt(Hurt("lose_answer"))
    healing = heal_later(proxy, "lose_answer")

    told = entrega.submit_many([*items, {**items[0], "email": "none"}])

    healing.join()
    assert len({each.receipt.id for each in told[:-1]}) == 20
    assert told[-1].error.issues[0].field == "email"
    assert archive.counts() == {("ready", "create_lead"): 20}


def test_what_was_not_answered_in_time_is_answered_by_the_same_key(door, proxy, archive):
    proxy.hurt(Hurt("lose_answer"))
    with Entrega(proxy.url, door.key, deadline_s=1) as hasty, pytest.raises(Unavailable) as raised:
        hasty.create_lead(**LEAD)
    proxy.heal()

    with Entrega(proxy.url, door.key) as again:
        receipt = again.create_lead(**LEAD, key=raised.value.key)

    assert raised.value.may_have_arrived
    assert receipt.state == "ready"
    assert archive.counts() == {("ready", "create_lead"): 1}


def test_an_answer_that_drips_is_left_at_the_deadline(door, proxy):
    proxy.hurt(Hurt("slow_bytes", seconds=0.05))

    with Entrega(proxy.url, door.key, deadline_s=1.5) as hasty, pytest.raises(Unavailable):
        hasty.create_lead(**LEAD)


def test_a_cancel_whose_answer_is_lost_is_a_cancel(entrega, proxy):
    receipt = entrega.create_lead(**LEAD)
    proxy.hurt(Hurt("lose_answer"))
    healing = heal_later(proxy, "lose_answer")

    entrega.cancel(receipt.id, "o cliente ligou")

    healing.join()
    assert entrega.wait(receipt.id, 5).state == "canceled"


def test_the_doors_refusals_are_errors_in_words(entrega):
    entrega.create_lead(**LEAD, key="conversa-4711")

    with pytest.raises(KeyReused):
        entrega.create_lead(**{**LEAD, "nome": "Ana Outra"}, key="conversa-4711")
    with pytest.raises(Refused, match="email"):
        entrega.create_lead(**{**LEAD, "email": "none"})
    with pytest.raises(NotFound):
        entrega.check("01a20146-c68f-77f3-a497-12636e996a58")
