"""What a producer's policy looks like over HTTP, and the way of an approval; a real server and a real ledger."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest

from delivery.producers import DEFAULT, LoopGuard
from ledger.erasing import Eraser
from ledger.producers import Producers

LEAD = {"nome": "Ana Teste", "email": "ana.teste@exemplo.com.br", "interesse": "produto_a"}
WHY = {"reason": "visto"}


@pytest.fixture
def bind(database, door):
    """Give the producer `loja` a policy, and return its door."""

    def give(**changes):
        Producers(database, actor="ana").set("loja", replace(DEFAULT, **changes), reason="test")
        return door.with_key("loja", "submit", "read")

    return give


def lead(n, **options):
    return LEAD | {"email": f"ana.teste{n}@exemplo.com.br"} | ({"options": options} if options else {})


@pytest.mark.parametrize(
    ("changes", "code", "window"),
    [
        ({"per_minute": 1}, "rate_exceeded", timedelta(minutes=1)),
        ({"per_day": 1}, "daily_cap", timedelta(days=1)),
        ({"new_recipients_per_day": 1}, "new_recipients_cap", timedelta(days=1)),
    ],
)
def test_over_a_cap_it_is_429_with_the_exact_time(bind, changes, code, window):
    loja = bind(**changes)
    before = datetime.now(UTC)
    loja.post("/v1/leads", lead(1))

    answer = loja.post("/v1/leads", lead(2))

    error, wait = answer.json()["error"], timedelta(seconds=int(answer.headers["Retry-After"]))
    assert (answer.status_code, error["code"], error["next_step"]) == (429, code, "wait")
    assert window - timedelta(seconds=20) < wait <= window
    said = datetime.fromisoformat(error["message"].rsplit(" ", 1)[1])
    assert before + window <= said + timedelta(milliseconds=1) <= datetime.now(UTC) + window


def test_beyond_the_allow_list_it_is_403_in_the_language_asked_for(bind, archive):
    loja = bind(allowed=frozenset({"@exemplo.com.br"}))

    answer = loja.post("/v1/leads", LEAD | {"email": "bia@outro.com.br"}, headers={"Accept-Language": "en"})

    assert (answer.status_code, answer.json()["error"]) == (
        403,
        {
            "code": "recipient_not_allowed",
            "message": "this producer may not write to one of the recipients; ask the operator",
            "details": [],
            "next_step": "ask_operator",
        },
    )
    assert archive.search() == []
    assert loja.post("/v1/leads", LEAD).status_code == 202


def test_a_loop_freezes_one_producer_and_the_answer_says_whom_to_ask(bind, door):
    loja = bind(loop=LoopGuard(2, timedelta(hours=1)))
    codes = [loja.post("/v1/leads", lead(1, key=f"k{n}")).status_code for n in range(4)]

    answer = loja.post("/v1/leads", lead(2))

    assert codes == [202, 202, 403, 403]
    assert (answer.json()["error"]["code"], answer.json()["error"]["next_step"]) == ("producer_frozen", "ask_operator")
    assert door.with_key("outra", "submit").post("/v1/leads", lead(1)).status_code == 202
    assert {"severity": "P2", "account": "producer:loja", "code": "producer_frozen"} in door.get(
        "/health/ready"
    ).json()["alerts"]


def test_of_many_only_what_is_over_the_cap_is_refused(bind):
    items = [{"kind": "create_lead", **lead(n)} for n in range(3)]

    answer = bind(per_day=2).post("/v1/bulk", {"items": items}).json()

    assert (answer["accepted"], answer["refused"]) == (2, 1)
    assert (answer["items"][2]["error"]["code"], answer["items"][2]["error"]["next_step"]) == ("daily_cap", "wait")


def test_what_is_scheduled_counts_for_what_may_wait(bind):
    loja = bind(most_open=2)
    later = (datetime.now(UTC) + timedelta(days=300)).isoformat()
    codes = [loja.post("/v1/leads", lead(n, send_at=later)).status_code for n in range(3)]

    answer = loja.post("/v1/bulk", {"items": [{"kind": "create_lead", **lead(9)}]}).json()

    assert codes == [202, 202, 429]
    assert answer["items"][0]["error"]["code"] == "too_much_waits"


def test_a_simulation_meets_the_same_policy_and_uses_nothing(bind, database):
    loja = bind(per_day=1, needs_approval=True)

    before = loja.post("/v1/simulate", {"kind": "create_lead", **lead(1)}).json()
    loja.post("/v1/leads", lead(1))
    after = loja.post("/v1/simulate", {"kind": "create_lead", **lead(2)})

    assert (before["would"], before["why"]) == ("hold", "a person must approve what this producer asks for")
    assert (after.status_code, after.json()["error"]["code"]) == (429, "daily_cap")
    assert Producers(database, actor="ana").find("loja").in_day == 1


def test_a_simulation_keeps_no_callback_url(door, sql):
    answer = door.post("/v1/simulate", {"kind": "create_lead", **lead(1, callback_url="https://loja.example/aviso")})

    assert answer.json()["would"] == "send"
    assert sql("SELECT id FROM endpoints") == []


def test_what_needs_approval_is_listed_approved_and_told_to_a_worker(bind, door, archive):
    receipt = bind(needs_approval=True).post("/v1/leads", LEAD).json()
    boss = door.with_key("chefe", "operate")
    listed = boss.get("/v1/approvals").json()["items"]

    answer = boss.post(f"/v1/deliveries/{receipt['id']}/approve", WHY)

    assert (receipt["state"], receipt["next_step"]) == ("held", "ask_operator")
    assert [(each["id"], each["code"]) for each in listed] == [(receipt["id"], "needs_approval")]
    assert (answer.json(), archive.find(UUID(receipt["id"])).state) == (
        {"id": receipt["id"], "state": "ready"}, "ready",
    )  # fmt: skip
    assert door.voice.sent == [UUID(receipt["id"])]


def test_what_is_rejected_is_canceled_and_cannot_be_approved(bind, door):
    id_ = bind(needs_approval=True).post("/v1/leads", LEAD).json()["id"]
    boss = door.with_key("chefe", "operate")

    rejected = boss.post(f"/v1/deliveries/{id_}/reject", WHY)
    approved = boss.post(f"/v1/deliveries/{id_}/approve", WHY)

    assert rejected.json() == {"id": id_, "state": "canceled"}
    assert (approved.status_code, approved.json()["error"]["code"]) == (409, "not_awaiting")


@pytest.mark.parametrize("path", ["approve", "reject"])
def test_a_producer_does_not_approve_its_own(bind, path):
    loja = bind(needs_approval=True)
    id_ = loja.post("/v1/leads", LEAD).json()["id"]

    answer = loja.post(f"/v1/deliveries/{id_}/{path}", WHY)

    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "missing_scope")


def test_a_command_for_a_suppressed_person_is_403_until_an_operator_allows_it(door, ledger, sql):
    eraser = Eraser(ledger.vault, "ana")
    eraser.erase([LEAD["email"]], reason="asked for", suppress=True)
    door.app.policies.forget()

    refused = door.post("/v1/leads", LEAD)
    eraser.allow([LEAD["email"]], reason="asked for it again")
    door.app.policies.forget()

    assert (refused.status_code, refused.json()["error"]["code"]) == (403, "suppressed")
    assert LEAD["email"] not in refused.text
    assert door.post("/v1/leads", LEAD).status_code == 202
