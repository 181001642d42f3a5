"""Where the ledger cannot tell what a producer may do, or cannot keep a record, nothing is accepted."""

import pytest
from sqlalchemy.exc import DBAPIError

from config.policy import load_specs
from delivery.intake import Intake
from ledger.producers import StoredPolicies

LEAD = {"nome": "Ana Teste", "email": "ana.teste@exemplo.com.br", "interesse": "produto_a"}


class Voice:
    def send(self, hints):
        raise AssertionError("a worker was woken for what was not accepted")


@pytest.fixture(params=["audit", "producers"])
def missing(request, sql):
    """Take a table away for the length of a test."""
    sql(f"ALTER TABLE {request.param} RENAME TO taken_away")
    yield
    sql(f"ALTER TABLE taken_away RENAME TO {request.param}")


def test_statement_54_without_a_policy_or_a_record_nothing_is_accepted(ledger, database, sql, missing):
    policies = StoredPolicies(database, ledger.vault)
    intake = Intake(ledger, Voice(), load_specs(), ("crm:default",), policies=policies)

    with pytest.raises(DBAPIError):
        intake.submit("create_lead", LEAD, producer="loja")

    assert sql("SELECT (SELECT count(*) FROM deliveries), (SELECT count(*) FROM payloads)") == [(0, 0)]
