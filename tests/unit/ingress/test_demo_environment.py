import os
from unittest.mock import patch

import pytest

from config.neutral import forget_variables, set_variables
from ingress.demo import _settings


@pytest.fixture
def persons_environment():
    """Somebody else's database, a production system, and two variables that are none of ours."""
    theirs = {
        "DATABASE_URL": "mysql://nobody@db.example.com/shop",
        "redis_url": "amqp://broker.example.com",
        "ENTREGA_ENV": "production",
        "SENTRY_DSN": "https://key@sentry.example.com/1",
        "PGHOST": "db.example.com",
        "CELERY_BROKER_URL": "amqp://broker.example.com",
        "HOME": "/home/ana",
        "PATH": "/usr/bin",
    }
    with patch.dict(os.environ, theirs, clear=True):
        yield


@pytest.mark.usefixtures("persons_environment")
def test_what_a_person_has_set_takes_no_part_in_the_demo(tmp_path, monkeypatch):
    (tmp_path / "project").mkdir()
    (tmp_path / "project" / ".env").write_text("CRM_API_URL=https://crm.example.com\nENTREGA_HOST=0.0.0.0\n")
    monkeypatch.chdir(tmp_path / "project")
    forget_variables()

    settings = _settings(tmp_path / "data")

    assert (settings.entrega_env, settings.database_url, settings.redis_url) == ("sandbox", None, None)
    assert (settings.crm_api_url, settings.entrega_host) == (None, "127.0.0.1")


@pytest.mark.usefixtures("persons_environment")
def test_variables_that_are_none_of_ours_stay():
    forget_variables()

    assert set(os.environ) - {"PYTEST_CURRENT_TEST"} == {"HOME", "PATH"}
    assert set_variables() == []
