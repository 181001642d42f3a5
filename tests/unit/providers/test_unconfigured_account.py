import pytest

from delivery.errors import Permanent
from providers.unconfigured import Unconfigured

ACCOUNT = Unconfigured("crm:default", ("CRM_API_URL", "CRM_CLIENT_ID"))


@pytest.mark.parametrize("ask", [lambda: ACCOUNT.send(None), lambda: ACCOUNT.probe()], ids=["send", "probe"])
def test_an_account_without_settings_says_which_are_missing_and_what_to_do(ask):
    with pytest.raises(Permanent) as caught:
        ask()

    assert caught.value.code == "misconfigured"
    assert "set CRM_API_URL, CRM_CLIENT_ID" in str(caught.value)
    assert "entrega resume crm:default" in str(caught.value)
