"""The OpenAPI document is true: random requests made from it meet no 5xx and no answer that it does not name."""

from itertools import cycle

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from delivery.outcomes import Rejected
from delivery.ports import Settlement
from delivery.producers import NEEDS_APPROVAL
from tests.integration.conftest import claim, lead, new

PATIENCE_S = 120
CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
OPERATIONS = [
    ("POST", "/v1/leads"),
    ("POST", "/v1/whatsapp"),
    ("POST", "/v1/emails"),
    ("POST", "/v1/bulk"),
    ("POST", "/v1/simulate"),
    ("GET", "/v1/deliveries"),
    ("GET", "/v1/deliveries/{delivery_id}"),
    ("POST", "/v1/deliveries/{delivery_id}/cancel"),
    ("POST", "/v1/deliveries/{delivery_id}/replay"),
    ("GET", "/v1/dead-letters"),
    ("GET", "/v1/dead-letters/summary"),
    ("GET", "/v1/dead-letters/{delivery_id}"),
    ("POST", "/v1/dead-letters/replay"),
    ("POST", "/v1/dead-letters/{delivery_id}/discard"),
    ("POST", "/v1/dead-letters/{delivery_id}/edit"),
    ("GET", "/v1/replays"),
    ("GET", "/v1/approvals"),
    ("GET", "/v1/approvals/{delivery_id}"),
    ("POST", "/v1/approvals/{delivery_id}/reveal"),
    ("POST", "/v1/deliveries/{delivery_id}/approve"),
    ("POST", "/v1/deliveries/{delivery_id}/reject"),
]


@pytest.fixture
def schema(door):
    return schemathesis.openapi.from_url(f"{door.url}/openapi.json", timeout=PATIENCE_S)


def test_every_operation_is_fuzzed(schema):
    documented = {(each.ok().method.upper(), each.ok().path) for each in schema.get_all_operations()}

    assert documented == set(OPERATIONS)


@pytest.mark.parametrize(("method", "path"), OPERATIONS)
def test_no_answer_is_undocumented_and_none_is_our_fault(schema, door, ledger, method, path):
    operation = schema[path][method]
    waiting = [new(lead(n), held_code=NEEDS_APPROVAL) for n in range(10, 12)]
    opened = ledger.open([new(lead(n)) for n in range(10)] + waiting)
    claimed = claim(ledger, *(each.id for each in opened[:8]))
    ledger.settle([Settlement(each, Rejected("invalid", "the CRM said no")) for each in claimed])
    ids = cycle([*(str(each.id) for each in opened), None])
    headers = {"Authorization": f"Bearer {door.key}"}

    @settings(
        max_examples=20,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy() | operation.as_strategy(generation_mode=schemathesis.GenerationMode.NEGATIVE))
    def fuzz(case):
        if case.path_parameters:
            case.path_parameters["delivery_id"] = next(ids) or case.path_parameters["delivery_id"]
        if case.query and "wait" in case.query:
            case.query["wait"] = 0
        case.call_and_validate(checks=CHECKS, headers=headers, timeout=PATIENCE_S)

    fuzz()
