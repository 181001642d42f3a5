"""The rules of the sandbox never meet the ledger of another machine."""

import pytest

from config.settings import ConfigurationError, load_settings
from tasks.app import Entrega


def test_in_the_sandbox_no_pool_is_made_for_a_ledger_on_another_machine():
    app = Entrega("elsewhere")
    app.settings = load_settings({"entrega_env": "sandbox", "database_url": "postgresql://u:p@db.example/entrega"})

    with pytest.raises(ConfigurationError, match=r"ENTREGA_ENV: sandbox .* staging or production"):
        _ = app.database
