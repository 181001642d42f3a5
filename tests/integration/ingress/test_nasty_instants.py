"""Instants that a part of the system cannot hold: refused by name at every door, and never the end of a list."""

import json

import pytest
from celery.exceptions import Reject
from typer.testing import CliRunner

from delivery.errors import InvalidCommand
from ingress.cli import cli
from tasks import create_lead
from tasks.commands import message_refused
from tests.integration.conftest import claim, lead, new
from tests.integration.ingress.test_ingress_dead_letters import dead
from tests.integration.ingress.test_rest_submit import LEAD

AGES = ["9999-12-31T23:59:59-14:00", "0001-01-01T00:00:00+14:00", "2100-01-01T00:00:00Z"]
OFFSETS = ["2099-06-01T12:00:00+16:00", "2099-06-01T12:00:00-23:59"]


def field_of(answer):
    return [each["field"] for each in answer.json()["error"]["details"]]


@pytest.mark.parametrize("name", ["send_at", "expires_at"])
@pytest.mark.parametrize(("path", "kind"), [("/v1/leads", {}), ("/v1/simulate", {"kind": "create_lead"})])
@pytest.mark.parametrize("written", AGES)
def test_an_instant_of_another_age_is_refused_by_name(door, archive, name, path, kind, written):
    answer = door.post(path, LEAD | kind | {"options": {name: written}})

    assert (answer.status_code, field_of(answer)) == (422, [f"options.{name}"])
    assert archive.search() == []


@pytest.mark.parametrize("written", OFFSETS)
def test_an_offset_that_postgres_refuses_is_taken(door, archive, written):
    answer = door.post("/v1/leads", LEAD | {"options": {"expires_at": written}})

    assert answer.status_code == 202
    assert archive.search()[0].expires_at.isoformat().startswith("2099-0")
    assert door.get("/v1/deliveries").status_code == 200


def test_the_other_items_of_a_bulk_are_accepted(door, archive):
    items = [
        {"kind": "create_lead", **LEAD, "email": f"ana{n}@exemplo.com.br", "options": {"expires_at": each}}
        for n, each in enumerate([*AGES, *OFFSETS])
    ]

    answer = door.post("/v1/bulk", {"items": items})

    assert answer.status_code == 202
    assert [each["error"] is None for each in answer.json()["items"]] == [False] * 3 + [True] * 2
    assert len(archive.search()) == 2


@pytest.mark.parametrize("written", AGES)
def test_the_command_line_refuses_one_in_a_sentence(voice, archive, written):
    body = json.dumps(LEAD | {"options": {"send_at": written}})

    result = CliRunner().invoke(cli, ["submit", "create_lead", body])

    assert isinstance(result.exception, InvalidCommand)  # which `main` prints as one sentence, exit code 4
    assert archive.search() == []


@pytest.mark.parametrize("options", [{"countdown": 1e20}, {"countdown": float("nan")}, {"expires": AGES[0]}])
def test_celerys_own_times_are_refused_as_the_fields_they_become(voice, archive, options):
    with pytest.raises(InvalidCommand, match=r"options\.(send_at|expires_at)"):
        create_lead.apply_async(kwargs=LEAD, **options)

    assert archive.search() == []


@pytest.mark.parametrize("written", [*AGES, "2026-13-01T00:00:00Z"])
def test_a_foreign_clients_command_is_refused_by_name_and_its_message_is_counted(voice, archive, written):
    refused = []

    def counted(reason="", **_):
        refused.append(reason)

    message_refused.connect(counted, weak=False)
    with pytest.raises(Reject, match=r"options\.send_at"):
        create_lead.run(**LEAD, options={"send_at": written})
    message_refused.disconnect(counted)

    assert refused == ["invalid_command"]
    assert archive.search() == []


@pytest.mark.parametrize("written", AGES)
def test_a_correction_of_a_dead_letter_is_refused_by_name(door, ledger, written):
    (id_,) = dead(ledger, lead())
    body = {"reason": "a later day", "changes": {"options": {"send_at": written}}}

    answer = door.post(f"/v1/dead-letters/{id_}/edit", body)

    assert (answer.status_code, field_of(answer)) == (422, ["options.send_at"])


@pytest.fixture
def broken(ledger, sql):
    """Return the ids of three deliveries that an earlier version accepted, and a fourth that is sound."""
    ids = sorted(each.id for each in ledger.open([new(lead(n)) for n in range(4)]))
    for id_, instant in zip(ids, ["10000-01-01T13:59:59Z", "infinity", "0044-03-15 BC"], strict=False):
        sql("UPDATE deliveries SET expires_at = CAST(:at AS timestamptz) WHERE id = :id", at=instant, id=id_)
    return ids


def test_a_row_with_an_instant_beyond_python_hides_no_other_and_says_so(door, broken):
    found = door.get("/v1/deliveries")

    assert found.status_code == 200
    shown = {each["id"]: each.get("unreadable") for each in found.json()["items"]}
    assert shown == {str(id_): ["expires_at"] for id_ in broken[:3]} | {str(broken[3]): None}
    one = door.get(f"/v1/deliveries/{broken[0]}").json()
    assert (one["expires_at"], one["unreadable"]) == ("2100-01-01T00:00:00Z", ["expires_at"])


def test_the_command_line_lists_it_and_says_so(voice, broken):
    listed = CliRunner().invoke(cli, ["deliveries"])
    shown = CliRunner().invoke(cli, ["show", str(broken[0])])

    assert (listed.exit_code, shown.exit_code) == (0, 0)
    assert all(str(each) in listed.stdout for each in broken)
    assert listed.stdout.count("expires_at is outside the years 2000 to 2099") == 3
    assert f"{broken[0]}: expires_at is outside" in shown.stdout


def test_a_worker_takes_them_and_those_beside_them(ledger, broken):
    claimed = claim(ledger, *broken)

    overdue = broken[2]
    assert {each.order.delivery_id for each in claimed} == {*broken} - {overdue}


@pytest.mark.parametrize(
    "words",
    [
        ["dead-letters", "list", "--older-than", "9999999d"],
        ["dead-letters", "replay", "--code", "invalid", "--reason", "x", "--pace", "0.001/h", "--yes"],
        ["keys", "create", "loja", "--expires-in", "9999999d"],
        ["producers", "set", "loja", "--loop-within", "9999999d"],
    ],
)
def test_an_age_or_pace_that_leads_beyond_our_years_is_wrong_use(voice, words):
    result = CliRunner().invoke(cli, words)

    assert (result.exit_code, result.exception.__class__) == (2, SystemExit)
