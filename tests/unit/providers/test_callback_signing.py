"""Signatures after Standard Webhooks: published vectors, and the receivers' own library."""

import base64
from datetime import UTC, datetime
from uuid import UUID

import pytest
from standardwebhooks import Webhook, WebhookVerificationError

from providers.callback.signing import signed_headers

EVENT = UUID("01930000-0000-7000-8000-000000000001")
SECRET = bytes(range(32))
OLD = bytes(32)
BODY = '{"data":{"nome":"João"},"type":"job.succeeded"}'.encode()


def receiver(secret):
    return Webhook("whsec_" + base64.b64encode(secret).decode())


def test_the_published_vector_is_met():
    # Source: Standard Webhooks, reference library's test suite, read 2026-11-22; its id is no UUID, any text may be.
    secret = base64.b64decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    at = datetime.fromtimestamp(1614265330, UTC)

    headers = signed_headers("msg_p5jXN8AQM9LWM0D4loKWxJek", at, b'{"test": 2432232314}', [secret])

    assert headers["webhook-signature"] == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


@pytest.mark.parametrize("secret", [SECRET, OLD])
def test_during_a_rotation_a_receiver_with_either_secret_accepts(secret):
    headers = signed_headers(EVENT, datetime.now(UTC), BODY, [SECRET, OLD])

    assert receiver(secret).verify(BODY, dict(headers)) == {"data": {"nome": "João"}, "type": "job.succeeded"}


@pytest.mark.parametrize(
    ("body", "changed"),
    [
        (BODY + b" ", {}),
        (BODY, {"webhook-id": "01930000-0000-7000-8000-000000000002"}),
        (BODY, {"webhook-timestamp": "1614265330"}),
    ],
)
def test_a_receiver_refuses_what_was_changed_or_is_old(body, changed):
    headers = signed_headers(EVENT, datetime.now(UTC), BODY, [SECRET])

    with pytest.raises(WebhookVerificationError):
        receiver(SECRET).verify(body, headers | changed)
