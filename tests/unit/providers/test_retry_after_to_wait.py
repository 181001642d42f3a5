"""From the header on the wire to the wait of the delivery: never below our own wait, never past what is believed."""

import random
from datetime import UTC, datetime

import pytest
import responses

from config.policy import load_specs
from delivery.commands import CreateLead
from delivery.errors import ProviderError
from delivery.ids import new_id
from delivery.judging import judge
from delivery.outcomes import Deferred
from delivery.ports import Claimed, Order
from providers.crm_rest import CrmRest
from providers.http import HttpClient
from providers.oauth import ApiKey

NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
SPEC = load_specs()["crm"]
CAP_S = SPEC.limits.on_excess.retry_after_cap.total_seconds()
HTTP = HttpClient()
LEAD = CreateLead(nome="Ana Teste", email="ana.teste@exemplo.com.br", interesse="produto_a")


@responses.activate
@pytest.mark.parametrize(
    ("header", "least_s", "most_s"),
    [
        pytest.param({"Retry-After": "90"}, 90, 99, id="seconds"),
        pytest.param({"Retry-After": "Sun, 22 Nov 2026 12:01:30 GMT"}, 90, 99, id="a date"),
        pytest.param(
            {"Retry-After": "Sun, 22 Nov 2026 13:01:30 GMT", "Date": "Sun, 22 Nov 2026 13:00:00 GMT"},
            90,
            99,
            id="a date of a server whose clock is wrong",
        ),
        pytest.param({"Retry-After": "0"}, 0.5, 1, id="zero: our own wait"),
        pytest.param({"Retry-After": "-5"}, 0.5, 1, id="negative: our own wait"),
        pytest.param({"Retry-After": "Sun, 22 Nov 2026 11:00:00 GMT"}, 0.5, 1, id="a date gone by: our own wait"),
        pytest.param({"Retry-After": "soon"}, 0.5, 1, id="garbage: our own wait"),
        pytest.param({"Retry-After": "1000000000000"}, CAP_S, CAP_S, id="beyond all sense: what is believed"),
        pytest.param({"Retry-After": "999999999"}, CAP_S, CAP_S, id="absurd: what is believed"),
        pytest.param({"Retry-After": "Fri, 31 Dec 9999 23:59:59 GMT"}, CAP_S, CAP_S, id="the end of the calendar"),
        pytest.param({"Retry-After": str(CAP_S * 0.98)}, CAP_S * 0.98, CAP_S, id="just below: no jitter beyond"),
        pytest.param({"Retry-After": "120, 60"}, 120, 132, id="the first number counts"),
        pytest.param({"Retry-After": "1m0s"}, 60, 66, id="a duration"),
        pytest.param({"Retry-After": "0.7"}, 0.5, 1, id="a fraction below our own wait"),
        pytest.param({}, 0.5, 1, id="missing: our own wait"),
    ],
)
@pytest.mark.parametrize("status", [429, 503])
def test_the_wait_lies_between_our_own_and_what_is_believed(
    status: int, header: dict[str, str], least_s: float, most_s: float
) -> None:
    own_step = {429: 1, 503: 2}[status]  # the first step of the rule
    responses.post("https://crm.example.com/api/v1/leads", json={}, status=status, headers=header)
    base_url = "https://crm.example.com"
    crm = CrmRest(spec=SPEC, base_url=base_url, credentials=ApiKey("invented"), http=HTTP, now=lambda: NOW)
    order = Order(new_id(), "crm:default", LEAD, 1, NOW)

    with pytest.raises(ProviderError) as caught:
        crm.send(order)
    outcome = judge(Claimed(order, "tests", 1, {}, 0), caught.value, SPEC, rng=random.Random(7))

    assert isinstance(outcome, Deferred)
    assert least_s <= outcome.wait.total_seconds() <= max(most_s, own_step)
