"""Limits of callers who proved nothing: by address, by turns, and before anything is parsed."""

import asyncio
import logging
from ipaddress import ip_network

import pytest

from config.api_key_text import new_api_key
from ingress.arrival import Arrival
from ingress.guard import Guard, late_refusal
from ingress.sampling import SampledWarnings, Sampler
from ingress.strangers import Strangers, Turns, network_of


class Clock:
    at = 1000.0

    def __call__(self):
        return self.at


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def strangers(clock):
    return Strangers(ticks=clock)


def refuse(strangers, times, host="198.51.100.7", kind="other"):
    for _ in range(times):
        strangers.refused[kind].count(host)


def is_spent(strangers, host="198.51.100.7", kind="other"):
    return strangers.refused[kind].are_too_many(host)


def test_an_address_may_be_wrong_thirty_times_and_then_ten_times_a_second(strangers, clock):
    refuse(strangers, 29)
    before = is_spent(strangers)
    refuse(strangers, 1)
    spent = is_spent(strangers)
    clock.at += 0.11

    assert (before, spent, is_spent(strangers)) == (False, True, False)


def test_other_addresses_are_not_slowed(strangers):
    refuse(strangers, 100)

    assert not is_spent(strangers, "198.51.100.8")


def test_wrong_keys_do_not_slow_webhooks_from_the_same_address(strangers):
    refuse(strangers, 100)

    assert not is_spent(strangers, kind="webhook")


def test_a_network_of_ipv6_counts_as_one_address(strangers):
    refuse(strangers, 100, "2001:db8:1:2::1")

    assert is_spent(strangers, "2001:db8:1:2:ffff::9")
    assert not is_spent(strangers, "2001:db8:1:3::1")


@pytest.mark.parametrize(
    ("host", "network"),
    [("198.51.100.7", "198.51.100.7"), ("::ffff:198.51.100.7", "198.51.100.7"), ("2001:db8::1", "2001:db8::/64"),
     ("fe80::1%eth0", "fe80::/64"), ("banana", "?"), ("", "?")],
)  # fmt: skip
def test_an_address_is_read_in_every_form(host, network):
    assert network_of(host) == network


def test_many_addresses_take_bounded_memory(strangers):
    for n in range(30_000):
        strangers.refused["other"].count(f"10.{n >> 16}.{n >> 8 & 255}.{n & 255}")
        strangers.note_proof(f"10.{n >> 16}.{n >> 8 & 255}.{n & 255}")

    assert (len(strangers.refused["other"]), len(strangers._proved)) == (20_000, 20_000)


def test_the_first_lines_of_a_minute_are_written_and_then_powers_of_ten(clock):
    sampler = Sampler(ticks=clock)

    written = [n for n in (sampler.count("none 401") for _ in range(2500)) if n is not None]

    assert written == [*range(1, 11), 100, 1000]


def test_warnings_of_a_library_are_sampled_and_errors_are_not():
    sampled = SampledWarnings()
    warning, error = (
        logging.makeLogRecord({"levelno": level, "msg": "Invalid HTTP request received."})
        for level in (logging.WARNING, logging.ERROR)
    )

    assert sum(sampled.filter(warning) for _ in range(150)) == 11
    assert sum(sampled.filter(error) for _ in range(150)) == 150


def test_each_reason_and_each_minute_begins_anew(clock):
    sampler = Sampler(ticks=clock)
    for _ in range(50):
        sampler.count("none 401")

    other = sampler.count("none 404")
    clock.at += 61

    assert (other, sampler.count("none 401")) == (1, 1)


class Keys:
    """A doorkeeper that remembers one key."""

    def __init__(self):
        self.good, self.asked = new_api_key(), []

    def remembers(self, secret):
        return secret == self.good

    def list_soon(self, secret):
        self.asked.append(secret)


@pytest.fixture
def guard(strangers):
    return Guard(Keys(), strangers, [ip_network("10.0.0.0/8")])


HOST = "198.51.100.7"


def head(first, *lines):
    return "\r\n".join([f"{first} HTTP/1.1", "Host: x", *lines, "", ""]).encode()


@pytest.mark.parametrize("line", ["Authorization: Bearer {}", "authorization:bearer {}", "X-API-Key: {}",
                                  "x-api-key:{}"])  # fmt: skip
def test_a_known_key_is_parsed_at_once_whatever_its_address_did(guard, strangers, line):
    refuse(strangers, 100)

    assert guard.weigh(HOST, head("POST /v1/leads", line.format(guard.doorkeeper.good))) == "parse"


def test_a_wrong_key_waits_its_turn_and_later_is_refused_unparsed(guard, strangers):
    wrong = head("GET /v1/deliveries", f"Authorization: Bearer {new_api_key()}")
    before = guard.weigh(HOST, wrong)
    refuse(strangers, 30)

    assert (before, guard.weigh(HOST, wrong)) == ("turn", "refuse")
    assert len(guard.doorkeeper.asked) == 2


def test_an_address_that_goes_on_does_not_recover(guard, strangers, clock):
    refuse(strangers, 30)
    weights = []
    for _ in range(200):
        clock.at += 0.05
        weights.append(guard.weigh(HOST, head("GET /x")))

    assert set(weights) == {"refuse"}


def test_health_is_never_weighed(guard, strangers):
    refuse(strangers, 100)

    assert guard.weigh(HOST, head("GET /health/ready")) == "parse"


@pytest.mark.parametrize("first", ["GET /health/x", "POST /health/live", "GET /health/livez", "GET /health/ready/x"])
def test_what_only_looks_like_health_is_weighed_as_any_other(guard, strangers, first):
    before = guard.weigh(HOST, head(first))
    refuse(strangers, 30)

    assert (before, guard.weigh(HOST, head(first))) == ("turn", "refuse")


HOOK, BODY = "POST /webhooks/whatsapp/default", b"x" * 100


@pytest.mark.parametrize(
    ("data", "weight"),
    [
        (head(HOOK, "Content-Length: 100"), "wait"),
        (head(HOOK, "Content-Length: 100") + BODY[:99], "wait"),
        (head(HOOK, "Content-Length: 100") + BODY, "first"),
        (head(HOOK, "Content-Length: 3000000") + BODY, "refuse"),
        (head(HOOK, "Transfer-Encoding: chunked") + BODY, "refuse"),
        (b"POST /webhooks/what", "wait"),
    ],
)
def test_from_an_address_that_was_refused_often_only_a_whole_small_webhook_gets_a_turn(guard, strangers, data, weight):
    refuse(strangers, 30, kind="webhook")

    assert guard.weigh(HOST, data) == weight


def test_where_a_webhook_was_verified_lately_the_next_one_waits_for_no_turn(guard, strangers, clock):
    first = guard.weigh(HOST, head(HOOK, "Content-Length: 100"))
    strangers.note_proof(HOST)
    second = guard.weigh(HOST, head(HOOK, "Content-Length: 100"))
    clock.at += 3601

    assert (first, second, guard.weigh(HOST, head(HOOK, "Content-Length: 100"))) == ("turn", "parse", "turn")


def test_a_webhook_whose_body_is_here_comes_before_those_that_keep_us_waiting(guard):
    idle, whole = head(HOOK, "Content-Length: 100"), head(HOOK, "Content-Length: 100") + BODY

    assert [guard.weigh(HOST, each) for each in (idle, whole)] == ["turn", "first"]


def test_whole_webhooks_that_prove_to_be_wrong_lose_their_turn_as_well(guard, strangers):
    refuse(strangers, 30, kind="webhook")
    for _ in range(200):
        strangers.disproved.count(HOST)

    assert guard.weigh(HOST, head(HOOK, "Content-Length: 100") + BODY) == "refuse"


def test_a_proxy_is_known_by_its_address(guard):
    assert [guard.is_proxy(each) for each in ("10.1.2.3", "192.0.2.1", "banana", "")] == [True, False, False, False]


def test_the_late_refusal_is_a_whole_answer():
    top, _, body = late_refusal().partition(b"\r\n\r\n")

    assert top.startswith(b"HTTP/1.1 429 ")
    assert f"Content-Length: {len(body)}".encode() in top
    assert b"too_many_refusals" in body


def test_turns_come_in_order_and_no_faster_than_allowed():
    async def scene():
        loop = asyncio.get_running_loop()
        turns, came, started = Turns(100, 3, loop.time), [], loop.time()
        done = asyncio.Event()
        for n in range(10):
            turns.wait(lambda n=n: came.append(n))
        at_once = list(came)
        turns.wait(done.set)
        turns.wait(lambda: came.append("ahead"), first=True)
        await done.wait()
        return at_once, came, loop.time() - started

    at_once, came, took = asyncio.run(scene())

    assert (at_once, came) == ([0, 1, 2], [0, 1, 2, "ahead", *range(3, 10)])
    assert took >= 0.07


def test_those_who_went_away_use_up_no_turn():
    async def scene():
        loop = asyncio.get_running_loop()
        turns, done = Turns(100, 1, loop.time), asyncio.Event()
        turns.wait(lambda: None)
        for _ in range(1000):
            turns.wait(lambda: False)
        turns.wait(done.set)
        await asyncio.wait_for(done.wait(), 2)

    asyncio.run(scene())


@pytest.mark.parametrize(("path", "disproved"), [("/metrics", 0), ("/webhooks/whatsapp/default", 1)])
def test_refused_readers_of_metrics_do_not_slow_webhooks_from_their_address(strangers, path, disproved):
    async def refuse_all(scope, receive, send):
        await send({"type": "http.response.start", "status": 401, "headers": []})

    async def take(_):
        pass

    arrival = Arrival(refuse_all, doorkeeper=Keys(), strangers=strangers, most_at_once=1, most_per_key=1)
    asyncio.run(
        arrival({"type": "http", "method": "GET", "path": path, "headers": [], "client": (HOST, 1)}, None, take)
    )

    assert len(strangers.disproved) == disproved
