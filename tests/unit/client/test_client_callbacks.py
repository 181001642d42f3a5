"""The client believes a callback only when it is signed, lately, with a secret it knows."""

import base64
import hmac
import json
from datetime import UTC, datetime

import pytest
from entrega_client import BadSignature, verify_callback

standardwebhooks = pytest.importorskip("standardwebhooks")

SECRET = "whsec_" + base64.b64encode(b"an invented secret of 32 bytes..").decode()
OTHER = "whsec_" + base64.b64encode(b"another invented secret 32 bytes").decode()
BODY = json.dumps({"type": "delivery.succeeded", "data": {"id": "1", "nome": "José"}}, ensure_ascii=False).encode()
NOW = 1_795_348_800


def headers(secret=SECRET, *, body=BODY, at=NOW):
    signature = standardwebhooks.Webhook(secret).sign("msg_1", datetime.fromtimestamp(at, UTC), body.decode())
    return {"Webhook-Id": "msg_1", "webhook-timestamp": str(at), "webhook-signature": signature}


def test_what_the_public_library_signed_is_believed():
    assert verify_callback(headers(), BODY, SECRET, now=NOW) == json.loads(BODY)


@pytest.mark.parametrize("secrets", [[OTHER, SECRET], [SECRET, OTHER]])
def test_any_secret_of_a_rotation_fits(secrets):
    assert verify_callback(headers(), BODY, secrets, now=NOW)["type"] == "delivery.succeeded"


def test_one_of_several_signatures_is_enough():
    both = {
        **headers(),
        "webhook-signature": f"{headers(OTHER)['webhook-signature']} v1a,x v1,? {headers()['webhook-signature']}",
    }

    assert verify_callback(both, BODY, SECRET, now=NOW)["type"] == "delivery.succeeded"


@pytest.mark.parametrize("off", [-300, 300])
def test_clocks_may_be_five_minutes_apart(off):
    assert verify_callback(headers(), BODY, SECRET, now=NOW + off)


@pytest.mark.parametrize(
    ("sent", "body", "now"),
    [
        (headers(OTHER), BODY, NOW),
        (headers(), BODY + b" ", NOW),
        (headers() | {"Webhook-Id": "msg_2"}, BODY, NOW),
        (headers() | {"webhook-timestamp": str(NOW + 1)}, BODY, NOW),
        (headers(), BODY, NOW + 301),
        (headers(), BODY, NOW - 301),
        (headers() | {"webhook-timestamp": "nan"}, BODY, NOW),
        (headers() | {"webhook-timestamp": "9" * 400}, BODY, NOW),
        (headers() | {"webhook-timestamp": "\u0661\u0662"}, BODY, NOW),
        (headers() | {"webhook-signature": ""}, BODY, NOW),
        (headers() | {"webhook-signature": "v1,"}, BODY, NOW),
        (headers() | {"webhook-signature": "v1,\u00e9"}, BODY, NOW),
        (headers() | {"webhook-signature": headers()["webhook-signature"].replace("v1,", "v2,")}, BODY, NOW),
        ({}, BODY, NOW),
        (headers(body=b"not json"), b"not json", NOW),
        (headers(body=b"[1]"), b"[1]", NOW),
    ],
)
def test_anything_else_is_not_believed(sent, body, now):
    with pytest.raises(BadSignature):
        verify_callback(sent, body, SECRET, now=now)


def test_statement_03_a_callback_is_refused_when_it_is_played_again_after_five_minutes():
    assert verify_callback(headers(), BODY, SECRET, now=NOW + 300)
    with pytest.raises(BadSignature, match="too far from now"):
        verify_callback(headers(), BODY, SECRET, now=NOW + 301)


def test_statement_03_an_id_with_a_dot_is_refused_although_it_was_signed():
    stamp, key = str(NOW), base64.b64decode(SECRET.removeprefix("whsec_"))
    digest = hmac.digest(key, f"msg.1.{stamp}.".encode() + BODY, "sha256")
    sent = {"webhook-timestamp": stamp, "webhook-signature": f"v1,{base64.b64encode(digest).decode()}"}

    with pytest.raises(BadSignature, match="dot"):
        verify_callback({**sent, "webhook-id": "msg.1"}, BODY, SECRET, now=NOW)
    with pytest.raises(BadSignature):
        verify_callback({**sent, "webhook-id": "msg", "webhook-timestamp": f"1.{stamp}"}, BODY, SECRET, now=NOW)


@pytest.mark.parametrize("secret", ["whsec_", "whsec_not base64!", ""])
def test_a_secret_that_is_none_is_an_error_of_the_caller(secret):
    with pytest.raises(ValueError, match="secret"):
        verify_callback(headers(), BODY, secret, now=NOW)
