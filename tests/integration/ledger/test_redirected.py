"""A redirect that is answered to a write costs that delivery only; an operator hears of it."""

import responses

from config.policy import load_specs
from delivery.engine import Engine
from ledger.alerts import Alerts
from providers.crm_rest import CrmRest
from providers.http import HttpClient
from providers.oauth import ApiKey
from tests.integration.conftest import lead, new
from worker.alerts import Alarm
from worker.metrics import SilentRecorder
from worker.telling import AttemptTeller

BASE = "https://crm.example.com"
LEADS = f"{BASE}/api/v1/leads"


@responses.activate
def test_one_redirect_kills_one_delivery_and_the_account_goes_on(ledger, archive, database):
    specs = load_specs()
    recorder = SilentRecorder()
    crm = CrmRest(spec=specs["crm"], base_url=BASE, credentials=ApiKey("invented"), http=HttpClient())
    alarm = Alarm(specs=specs, book=Alerts(database), recorder=recorder, report=lambda _: None)
    engine = Engine(ledger, {"crm:default": crm}, specs, AttemptTeller(recorder, alarm=alarm), "w1")
    first, second = (each.id for each in ledger.open([new(lead(1)), new(lead(2))]))
    responses.get(LEADS, json={"items": []})
    responses.post(LEADS, status=302, headers={"Location": "https://elsewhere.example.com/"})
    responses.post(LEADS, status=201, json={"id": "551", "status": "created"})

    engine.deliver([first])
    engine.deliver([second])

    found = [archive.find(each) for each in (first, second)]
    assert [(each.state, each.code) for each in found] == [("dead", "redirected"), ("succeeded", "ok")]
    assert [each for each in archive.accounts() if each.held_reason] == []
    assert [(each.severity, each.account, each.code) for each in Alerts(database).open()] == [
        ("P1", "crm:default", "redirected")
    ]
