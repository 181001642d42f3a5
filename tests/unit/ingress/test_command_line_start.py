"""Asking for help stays cheap: what a command needs is imported when the command runs."""

import subprocess
import sys

import pytest

HEAVY = {
    "celery",
    "kombu",
    "pydantic",
    "sqlalchemy",
    "redis",
    "requests",
    "fastapi",
    "sentry_sdk",
    "alembic",
    "rich.table",
}


def loaded(code):
    program = f"{code}; import sys; print('\\n'.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_the_command_line_loads_nothing_heavy_before_a_command_runs():
    assert loaded("import ingress.cli") & HEAVY == set()


@pytest.mark.parametrize("part", ["worker", "providers", "sentry_sdk", "alembic", "prometheus_client"])
def test_the_way_to_the_ledger_loads_no_worker(part):
    assert part not in loaded("import tasks.logs, ingress.printing; from tasks import app")


@pytest.mark.parametrize("part", ["worker", "celery", "alembic", "sqlalchemy", "fastapi"])
def test_the_whole_system_starts_its_servers_before_it_loads_anything_of_theirs(part):
    assert part not in loaded("import ingress.up")


@pytest.mark.parametrize("part", ["mcp", "providers.crm_rest", "providers.smtp", "alembic", "sentry_sdk", "typer"])
def test_the_web_process_loads_only_what_every_request_needs(part):
    assert part not in loaded("import ingress.web")


@pytest.mark.parametrize("part", ["alembic", "sentry_sdk", "providers.http", "fastapi"])
def test_beat_loads_no_providers_and_no_migrations(part):
    assert part not in loaded("import worker")


@pytest.mark.parametrize("part", ["celery.bin", "flower", "prompt_toolkit"])
def test_worker_and_beat_of_the_whole_system_load_nothing_of_celerys_command_line(part):
    assert part not in loaded("import ingress.process; from worker import app; app.Worker, app.Beat")
