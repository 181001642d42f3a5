from pathlib import Path

import pytest

from config.services import SERVICES
from delivery.errors import Permanent
from providers.unconfigured import Unconfigured

ACCOUNT = Unconfigured("crm:default", "set CRM_API_URL, CRM_CLIENT_ID, restart the workers")


@pytest.mark.parametrize(("ask", "about"), [(ACCOUNT.send, [None]), (ACCOUNT.look_up, [None]), (ACCOUNT.probe, [])])
def test_an_account_without_settings_says_which_are_missing_and_what_to_do(ask, about):
    with pytest.raises(Permanent) as caught:
        ask(*about)

    assert caught.value.code == "misconfigured"
    assert "set CRM_API_URL, CRM_CLIENT_ID" in str(caught.value)
    assert "entrega resume crm:default" in str(caught.value)


@pytest.mark.parametrize("adapter", sorted({each.adapter for each in SERVICES.values()}))
def test_every_adapter_runs_the_suite_of_all_providers(adapter):
    tests = Path(__file__).parents[2].glob("*/providers/test_*.py")
    suites = [each for each in tests if f"from providers.{adapter} import" in each.read_text(encoding="utf-8")]

    assert any("assert_conforms(case" in each.read_text(encoding="utf-8") for each in suites)
