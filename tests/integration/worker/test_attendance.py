"""Workers sign the roster with what they were started with; what differs between machines is named."""

from base64 import b64encode
from datetime import timedelta

import pytest

from config.settings import load_settings
from ledger.roster import Present, Roster
from sandbox.forms import write_forms
from tasks.app import Entrega
from worker.attendance import differences, facts

LATELY = timedelta(seconds=30)
KEYS = b64encode(bytes(32)).decode()


@pytest.fixture
def machine(database, postgres_url):
    """The facts of a process of the ledger that was started with these settings."""

    def _machine(**settings):
        app = Entrega("machine")
        values = {"database_url": postgres_url, "entrega_master_keys": KEYS, "crm_api_key": "s3gredo"}
        app.settings = load_settings(values | settings)
        app.__dict__["database"] = database
        return facts(app)

    return _machine


@pytest.fixture
def roster(database):
    return Roster(database)


def test_a_worker_is_present_until_it_leaves(roster):
    roster.sign(Present("a:1", {"version": "1"}))
    roster.sign(Present("a:1", {"version": "2"}))
    roster.sign(Present("b:1", {"version": "2"}))
    roster.leave("b:1")

    assert roster.present(within=LATELY) == [Present("a:1", {"version": "2"})]


def test_a_worker_that_was_killed_is_soon_no_longer_present_and_later_forgotten(roster, sql):
    roster.sign(Present("a:1", {}))
    sql("UPDATE roster SET seen_at = now() - interval '1 minute'")
    gone = roster.present(within=LATELY)
    sql("UPDATE roster SET seen_at = now() - interval '2 days'")

    roster.sign(Present("b:1", {}))

    assert gone == []
    assert sql("SELECT name FROM roster") == [("b:1",)]


def test_equal_machines_differ_in_nothing(machine):
    workers = [Present("a:1", machine()), Present("b:1", machine())]

    assert differences(workers, machine()) == {}


@pytest.mark.parametrize(
    ("changed", "name"),
    [
        ({"entrega_standins": True}, "environment"),
        ({"entrega_master_keys": f"{b64encode(bytes(range(32))).decode()},{KEYS}"}, "keys"),
        ({"crm_timeout": 7}, "providers"),
        ({"crm_api_key": "outro"}, "providers"),
        ({"whatsapp_access_token": "outro"}, "providers"),
        ({"entrega_workers": 5}, "ENTREGA_WORKERS"),
    ],
)
def test_what_differs_between_two_machines_is_named_and_no_secret_is(machine, changed, name):
    workers = [Present("a:1", machine()), Present("b:1", machine(**changed))]

    found = differences(workers, machine())

    assert name in found
    assert set(found) == {name}
    assert set(found[name]) >= {"a:1", "b:1"}
    assert "s3gredo" not in str(found)


def test_other_specs_are_named(machine, tmp_path):
    write_forms(tmp_path, limits={"crm": {"per_second": 1}})

    found = differences([Present("a:1", machine())], machine(entrega_integrations=tmp_path))

    assert set(found) == {"specs"}


def test_a_worker_of_another_version_is_named(machine):
    old = {**machine(), "version": "0.0.9"}

    found = differences([Present("a:1", old)], machine())

    assert set(found) == {"version"}
    assert found["version"]["a:1"] == "0.0.9"


def test_a_command_line_without_the_variables_of_providers_differs_in_nothing(machine):
    assert differences([Present("a:1", machine())], machine(crm_api_key=None)) == {}
