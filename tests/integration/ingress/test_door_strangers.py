"""What outsiders without a key or a secret do to a real web process: nothing that others would notice."""

import socket
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress

import pytest
import requests
from sqlalchemy import event

from config.api_key_text import new_api_key
from ingress.strangers import Turns
from sandbox import graph_webhooks as meta
from tests.integration.ingress.test_rest_bad_input import answer_of, connected
from tests.integration.ingress.test_rest_submit import LEAD

HOOK = "/webhooks/whatsapp/default"
FORM = f"X-Hub-Signature-256: sha256={'0' * 64}"
SIGNED = b'{"object": "whatsapp_business_account", "entry": []}'


def with_secret(app):
    app.settings = app.settings.model_copy(update={"whatsapp_app_secret": type(app.settings.crm_api_key)("s3cret")})


@pytest.fixture
def hooked(doors):
    return doors(change=with_secret)


def webhook_head(length, proof=FORM):
    return f"POST {HOOK} HTTP/1.1\r\nHost: x\r\n{proof}\r\nContent-Length: {length}\r\n\r\n".encode()


def signed_webhook(door):
    headers = {"X-Hub-Signature-256": meta.proof(SIGNED, "s3cret")}
    return requests.post(door.url + HOOK, data=SIGNED, headers=headers, timeout=60).status_code


def submits(door, n=1):
    return {door.post("/v1/leads", LEAD | {"email": f"ana{each}@exemplo.com.br"}).status_code for each in range(n)}


@pytest.mark.parametrize("proof", ["X-A: 1", "X-Hub-Signature-256: sha256=00", f"{FORM}\r\n{FORM}",
                                   f"X-Hub-Signature-256: sha256={'A' * 64}"])  # fmt: skip
def test_what_cannot_be_a_signature_is_refused_before_the_body_is_read(hooked, proof):
    with connected(hooked) as sock:
        sock.sendall(webhook_head(1000, proof))
        answer = answer_of(sock)

    assert answer.startswith(b"HTTP/1.1 401")
    assert b"connection: close" in answer.lower()


def test_500_idle_webhooks_keep_neither_producers_nor_providers_out(hooked):
    with ExitStack() as stack:
        for _ in range(500):
            stack.enter_context(connected(hooked)).sendall(webhook_head(1000))

        assert submits(hooked, 5) == {202}
        assert signed_webhook(hooked) == 200


def test_a_webhook_that_comes_in_two_parts_overtakes_heads_whose_bodies_do_not_come(hooked):
    hooked.web.state.guard.strangers.turns = Turns(2, 1, time.monotonic)
    with ExitStack() as stack:
        for _ in range(20):
            stack.enter_context(connected(hooked)).sendall(webhook_head(1000))
        parts = stack.enter_context(connected(hooked))
        parts.sendall(webhook_head(len(SIGNED), f"X-Hub-Signature-256: {meta.proof(SIGNED, 's3cret')}"))
        time.sleep(0.2)
        parts.sendall(SIGNED)

        assert answer_of(parts).startswith(b"HTTP/1.1 200")


def test_a_body_that_was_cut_off_is_no_wrong_one(hooked):
    for _ in range(20):
        with connected(hooked) as sock:
            sock.sendall(webhook_head(1000))
    strangers = hooked.web.state.guard.strangers
    while not len(strangers.refused["webhook"]):
        time.sleep(0.01)

    assert len(strangers.disproved) == 0


def test_43_unsigned_bodies_of_3_mb_keep_neither_producers_nor_providers_out(hooked):
    def stall(sock):
        with suppress(OSError):
            sock.sendall(webhook_head(3_000_000) + b" " * 2_900_000)

    with ExitStack() as stack, ThreadPoolExecutor(43) as pool:
        socks = [stack.enter_context(connected(hooked)) for _ in range(43)]
        sending = [pool.submit(stall, each) for each in socks]

        assert submits(hooked, 5) == {202}
        assert signed_webhook(hooked) == 200
        for each in socks:
            each.shutdown(socket.SHUT_RDWR)
        assert all(each.exception() is None for each in sending)


def test_a_guesser_of_keys_is_slowed_down_and_a_caller_with_a_key_at_the_same_address_is_not(door):
    shop = door.with_key("loja", "submit")

    def guess(_):
        return door.get("/v1/deliveries", key=new_api_key()).status_code

    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(guess, range(150)))
        assert submits(shop, 5) == {202}

    assert set(answers) <= {401, 429, 503}
    assert answers.count(429) > 50


def test_unknown_paths_are_slowed_down_with_a_word_when_to_come_back(door):
    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(lambda n: requests.get(f"{door.url}/{n}.php", timeout=60), range(150)))
    slowed = [each.headers["retry-after"] for each in answers if each.status_code == 429]

    assert {each.status_code for each in answers} == {404, 429}
    assert set(slowed) == {"1"}
    assert door.get("/nirgendwo").status_code == 404


def test_guessed_keys_cost_the_ledger_next_to_nothing(door):
    asked = []

    def note(*arguments):
        asked.append("api_keys" in arguments[2])

    event.listen(door.app.database, "before_cursor_execute", note)
    started = time.monotonic()
    with ThreadPoolExecutor(10) as pool:
        list(pool.map(lambda _: door.get("/v1/deliveries", key=new_api_key()), range(25)))
    event.remove(door.app.database, "before_cursor_execute", note)

    assert 1 <= sum(asked) <= 2 + 4 * (time.monotonic() - started)


def test_a_key_works_the_moment_it_is_made(door):
    found = [door.with_key(f"loja{n}", "read").get("/v1/deliveries").status_code for n in range(5)]

    assert found == [200] * 5


def test_a_new_key_works_also_where_others_guess_keys(door):
    for _ in range(100):
        door.web.state.guard.strangers.refused["other"].count("127.0.0.1")

    assert door.with_key("loja", "read").get("/v1/deliveries").status_code == 200


def test_a_revoked_key_is_refused_and_asks_the_ledger_once(door, sql):
    shop = door.with_key("loja", "read")
    sql("UPDATE api_keys SET revoked_at = now()")

    assert {shop.get("/v1/deliveries").status_code for _ in range(3)} == {401}


@pytest.mark.parametrize("first", ["/health/live", "/nowhere"])
def test_requests_behind_the_first_one_of_a_stranger_are_not_answered_without_a_turn(door, first):
    requests_at_once = "".join(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n" for path in (first, *["/nowhere"] * 20))
    with connected(door) as sock:
        sock.sendall(requests_at_once.encode())
        answers = answer_of(sock)

    assert answers.count(b"HTTP/1.1 ") == 1


def test_what_is_no_http_slows_its_sender_down_as_well(door):
    def send(_):
        with connected(door) as sock, suppress(OSError):
            sock.sendall(b"\x16\x03\x01\x02\x00\r\n\r\n")
            return answer_of(sock)

    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(send, range(150)))

    assert any(each.startswith(b"HTTP/1.1 429") for each in answers)
    assert submits(door) == {202}
