"""Limits of callers who proved nothing, by address; and the log lines that they cause."""

import pytest

from ingress.sampling import Sampler
from ingress.strangers import Strangers, network_of


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
        strangers.charge(kind, host)


def test_an_address_may_be_wrong_thirty_times_and_then_ten_times_a_second(strangers, clock):
    refuse(strangers, 29)
    before = strangers.is_spent("other", "198.51.100.7")
    refuse(strangers, 1)
    spent = strangers.is_spent("other", "198.51.100.7")
    clock.at += 0.11

    assert (before, spent, strangers.is_spent("other", "198.51.100.7")) == (False, True, False)


def test_other_addresses_are_not_slowed(strangers):
    refuse(strangers, 100)

    assert not strangers.is_spent("other", "198.51.100.8")


def test_wrong_keys_do_not_slow_webhooks_from_the_same_address(strangers):
    refuse(strangers, 100)

    assert not strangers.is_spent("webhook", "198.51.100.7")


def test_a_network_of_ipv6_counts_as_one_address(strangers):
    refuse(strangers, 100, "2001:db8:1:2::1")

    assert strangers.is_spent("other", "2001:db8:1:2:ffff::9")
    assert not strangers.is_spent("other", "2001:db8:1:3::1")


@pytest.mark.parametrize(
    ("host", "network"),
    [("198.51.100.7", "198.51.100.7"), ("::ffff:198.51.100.7", "198.51.100.7"), ("2001:db8::1", "2001:db8::/64"),
     ("fe80::1%eth0", "fe80::/64"), ("banana", "?"), ("", "?")],
)  # fmt: skip
def test_an_address_is_read_in_every_form(host, network):
    assert network_of(host) == network


def test_many_addresses_take_bounded_memory(strangers):
    for n in range(30_000):
        strangers.charge("other", f"10.{n >> 16}.{n >> 8 & 255}.{n & 255}")

    assert len(strangers._left) == 20_000


def test_the_first_lines_of_a_minute_are_written_and_then_powers_of_ten(clock):
    sampler = Sampler(ticks=clock)

    written = [n for n in (sampler.count("none 401") for _ in range(2500)) if n is not None]

    assert written == [*range(1, 11), 100, 1000]


def test_each_reason_and_each_minute_begins_anew(clock):
    sampler = Sampler(ticks=clock)
    for _ in range(50):
        sampler.count("none 401")

    other = sampler.count("none 404")
    clock.at += 61

    assert (other, sampler.count("none 401")) == (1, 1)
