"""Idempotency under races: many producers, in processes and threads of their own, hand the same commands over at once.

Each goes through the intake as a producer does; the ledger is the real Postgres. Only hints stand at their port.
"""

import multiprocessing
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import repeat
from threading import Barrier

import pytest

from config.policy import load_specs
from delivery.errors import KeyReused
from delivery.intake import Intake
from ledger.database import connect
from ledger.sealing import MasterKeys
from ledger.store import PostgresLedger
from ledger.vault import Vault

PROCESSES, THREADS = 5, 10
REFUSED = "refused"


@dataclass
class Voice:
    sent: list = field(default_factory=list)

    def send(self, hints):
        self.sent += list(hints)
        return len(self.sent)


def body(n, key=None, *, nome="Ana Teste"):
    options = {"key": key} if key else {}
    email = f"ana.teste{n}@exemplo.com.br"
    return {"nome": nome, "email": email, "interesse": "produto_a", "options": options}


def submitted(intake, command):
    try:
        return intake.submit("create_lead", command, producer="loja").id
    except KeyReused:
        return REFUSED


def produce(url, shares):
    """One producing process: a thread for each share, all through the same commands; return answers and hints."""
    database = connect(url, pool_size=THREADS)
    voice = Voice()
    ledger = PostgresLedger(database, Vault(database, MasterKeys([bytes(32)])))
    intake = Intake(ledger, voice, load_specs(), ("crm:default",))
    gate = Barrier(len(shares))

    def work(share):
        gate.wait(120)
        return [submitted(intake, command) for command in share]

    with ThreadPoolExecutor(len(shares)) as threads:
        answers = list(threads.map(work, shares))
    database.dispose()
    return answers, len(voice.sent)


@pytest.fixture
def race(postgres_url, database):
    """Let 50 producers hand their commands over at once; return their answers, one list each, and the hints sent."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["ledger.store", "delivery.intake"])

    def run(shares):
        parts = [shares[n::PROCESSES] for n in range(PROCESSES)]
        with context.Pool(PROCESSES) as pool:
            done = pool.starmap(produce, zip(repeat(postgres_url), parts, strict=False))
        return [each for answers, _ in done for each in answers], sum(hints for _, hints in done)

    return run


def test_500_keys_by_50_producers_at_once_make_500_deliveries(race, archive, sql):
    commands = [body(n, f"pedido-{n}") for n in range(500)]

    answers, hints = race([commands] * PROCESSES * THREADS)

    assert {len(each) for each in answers} == {500}
    assert len({tuple(each) for each in answers}) == 1
    assert len(set(answers[0])) == 500
    assert sql("SELECT count(*), count(DISTINCT person) FROM deliveries") == [(500, 500)]
    assert hints == 500
    assert archive.verify().faults == {}


def test_one_key_with_two_bodies_at_once_makes_one_delivery_and_refuses_the_other_body(race, sql):
    keys = range(40)
    ours = [body(n, f"pedido-{n}") for n in keys]
    theirs = [body(n, f"pedido-{n}", nome="Bia Teste") for n in keys]

    answers, hints = race([ours, theirs] * (PROCESSES * THREADS // 2))

    for_each_key = [Counter(each) for each in zip(*answers, strict=True)]
    assert [sorted(each.values()) for each in for_each_key] == [[25, 25]] * 40
    assert all(each[REFUSED] == 25 for each in for_each_key)
    assert sql("SELECT count(*) FROM deliveries") == [(40,)]
    assert hints == 40


def test_repeats_without_a_key_at_once_make_one_delivery_within_the_window_and_one_after_it(race, sql):
    commands = [body(n) for n in range(20)]
    first, _ = race([commands] * PROCESSES * THREADS)
    sql("UPDATE idempotency SET kept_until = now()")

    second, _ = race([commands] * PROCESSES * THREADS)

    assert [len({tuple(each) for each in answers}) for answers in (first, second)] == [1, 1]
    assert not set(first[0]) & set(second[0])
    assert sql("SELECT count(*) FROM deliveries") == [(40,)]
