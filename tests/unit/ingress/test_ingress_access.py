import ast
import asyncio
import gc
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from pydantic import SecretStr

from config.api_key_text import is_whole_api_key, new_api_key
from delivery.errors import LedgerUnavailable
from delivery.ids import new_id
from ingress.access import Caller, Doorkeeper, is_producer
from ingress.problems import Problem
from ledger.api_keys import ApiKey, api_key_hash

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
BOOTSTRAP = "uma-chave-inventada-bem-comprida"


class Shelf:
    """Keys by hash, and how often it was asked."""

    def __init__(self, **keys):
        self.keys = {api_key_hash(secret): key for secret, key in keys.items()}
        self.asked = 0

    def find(self, key_hash):
        self.asked += 1
        return self.keys.get(key_hash)


class Clock:
    def __init__(self):
        self.at = 0.0

    def __call__(self):
        return self.at


def key(*scopes, expires_at=None):
    return ApiKey(new_id(), "entrega_abcd", "loja", scopes, NOW, "ana", expires_at, None)


@pytest.fixture
def clock():
    return Clock()


def doorkeeper(shelf, clock, bootstrap=BOOTSTRAP):
    return Doorkeeper(shelf, SecretStr(bootstrap) if bootstrap else None, ticks=clock, now=lambda: NOW)


def refused(keeper, secret):
    with pytest.raises(Problem) as caught:
        keeper.admit(secret)
    return caught.value.code, caught.value.status


def test_a_key_is_long_random_and_recognisable():
    made = {new_api_key() for _ in range(100)}

    assert len(made) == 100
    assert all(each.startswith("entrega_") and len(each) == 47 and is_whole_api_key(each) for each in made)


@pytest.mark.parametrize("change", [lambda k: k[:-1], lambda k: k[:20] + ("b" if k[20] == "a" else "a") + k[21:],
                                    str.upper, lambda k: k + "a", lambda k: f" {k}", lambda k: ""])  # fmt: skip
def test_a_mistyped_key_is_told_by_its_checksum(change):
    assert not is_whole_api_key(change(new_api_key()))


def test_a_key_opens_the_door_for_its_producer(clock):
    secret = new_api_key()

    made = key("submit", "read")

    caller = doorkeeper(Shelf(**{secret: made}), clock).admit(secret)

    assert caller == Caller("loja", frozenset({"submit", "read"}), made.id)
    assert caller.actor == f"key:loja#{made.id}"


def test_the_bootstrap_key_is_an_admin_and_asks_no_ledger(clock):
    shelf = Shelf()

    caller = doorkeeper(shelf, clock).admit(BOOTSTRAP)

    assert (caller.producer, caller.sees_all, shelf.asked) == ("bootstrap", True, 0)


@pytest.mark.parametrize(
    ("secret", "code"),
    [(None, "missing_key"), ("", "missing_key"), ("entrega_curta", "mistyped_key"), (new_api_key(), "unknown_key")],
    ids=["none", "empty", "short", "unknown"],
)
def test_what_is_no_key_is_told_apart(clock, secret, code):
    assert refused(doorkeeper(Shelf(), clock), secret) == (code, 401)


def test_without_a_bootstrap_key_nothing_stands_for_it(clock):
    assert refused(doorkeeper(Shelf(), clock, bootstrap=None), BOOTSTRAP) == ("mistyped_key", 401)


def test_a_good_key_is_not_asked_for_again_at_once(clock):
    secret = new_api_key()
    shelf = Shelf(**{secret: key("read")})
    keeper = doorkeeper(shelf, clock)

    keeper.admit(secret)
    keeper.admit(secret)

    assert (shelf.asked, keeper.trusts(secret)) == (1, True)


def test_a_revoked_key_is_refused_within_half_a_minute(clock):
    secret = new_api_key()
    shelf = Shelf(**{secret: key("read")})
    keeper = doorkeeper(shelf, clock)
    keeper.admit(secret)

    shelf.keys.clear()
    clock.at = 30

    assert refused(keeper, secret) == ("unknown_key", 401)


def test_a_key_that_expires_while_it_is_trusted_is_refused(clock):
    secret = new_api_key()
    shelf = Shelf(**{secret: key("read", expires_at=NOW - timedelta(seconds=1))})

    assert refused(doorkeeper(shelf, clock), secret) == ("unknown_key", 401)


def test_statement_54_an_absent_ledger_admits_no_key(clock):
    class Away:
        def find(self, key_hash):
            raise LedgerUnavailable("Postgres does not answer")

    with pytest.raises(LedgerUnavailable):
        doorkeeper(Away(), clock).admit(new_api_key())


@pytest.mark.parametrize(
    ("has", "wants", "may"),
    [
        ("submit", "submit:send_email", True),
        ("submit:create_lead", "submit:create_lead", True),
        ("submit:create_lead", "submit:send_email", False),
        ("submit:create_lead", "submit", False),
        ("submit", "read", False),
        ("read", "operate", False),
        ("operate", "read", True),
        ("operate", "submit", False),
        ("admin", "submit:send_whatsapp", True),
        ("admin", "operate", True),
        ("operate", "admin", False),
    ],
)
def test_what_a_scope_covers(has, wants, may):
    assert Caller("loja", frozenset({has})).may(wants) is may


@pytest.mark.parametrize(
    ("name", "good"),
    [
        ("loja-sul", True),
        ("celery-loja", True),
        ("bootstrap", False),
        ("celery", False),
        ("Celery", False),
        ("cli", False),
        ("demo", False),
        ("whatsapp", False),
        ("crm", False),
        ("email", False),
        ("callback", False),
        ("system", False),
        ("up", False),
        ("a b", False),
        ("", False),
    ],
)
def test_a_producer_is_a_plain_word(name, good):
    assert is_producer(name) is good


def test_no_key_can_be_made_for_a_name_under_which_our_own_doors_submit():
    """Each call that names a producer by a word of its own, and each constant that is one."""
    used = set()
    for folder in ("ingress", "tasks", "ledger", "worker", "delivery"):
        for file in (Path(__file__).parents[3] / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(file.read_text())):
                match node:
                    case ast.keyword(arg="producer" | "actor", value=ast.Constant(value=str(name))):
                        used.add(name)
                    case ast.Assign(targets=[ast.Name(id=constant)], value=ast.Constant(value=str(name))):
                        if constant.lstrip("_").endswith("PRODUCER"):
                            used.add(name)

    assert {"cli", "celery", "bootstrap", "demo"} <= used
    assert [name for name in used if name and is_producer(name)] == []


def test_a_list_of_keys_that_cannot_be_read_in_the_background_is_no_unhandled_error(clock):
    class Away:
        def hashes(self):
            raise LedgerUnavailable("Postgres does not answer")

    async def scene():
        unhandled = []
        asyncio.get_running_loop().set_exception_handler(lambda _, what: unhandled.append(what["message"]))
        keeper, secret = doorkeeper(Away(), clock), new_api_key()
        keeper.list_soon(secret)
        await asyncio.wait({keeper._next_list})
        gc.collect()
        await asyncio.sleep(0)
        with pytest.raises(LedgerUnavailable):
            await keeper.knows(secret)
        return unhandled

    clock.at = 10.0
    assert asyncio.run(scene()) == []


def test_the_list_of_keys_is_not_read_again_for_a_key_that_is_on_it(clock):
    class Lists:
        def __init__(self, secret):
            self.secret, self.reads = secret, 0

        def hashes(self):
            self.reads += 1
            return frozenset({api_key_hash(self.secret)})

    async def scene(keeper, secret):
        known = await keeper.knows(secret)
        keeper.list_soon(secret)
        return known, keeper._next_list

    secret = new_api_key()
    assert asyncio.run(scene(doorkeeper(Lists(secret), clock), secret)) == (True, None)
