from datetime import timedelta

import pytest
from sqlalchemy import text

from delivery.commands import CreateLead, SendEmail
from delivery.ids import new_id
from delivery.ports import NewDelivery
from ledger.database import connect
from ledger.inbound import Inbound
from ledger.letters import Letters
from ledger.operating import Desk
from ledger.producer_models import metadata
from ledger.reading import Archive
from ledger.schema import migrate
from ledger.sealing import MasterKeys
from ledger.store import PostgresLedger
from ledger.vault import Vault

LEASES = {kind: timedelta(seconds=30) for kind in ("create_lead", "send_whatsapp", "send_email", "callback")}


@pytest.fixture(scope="session")
def migrated(postgres_url):
    engine = connect(postgres_url, name="tests")
    migrate(engine)
    yield engine
    engine.dispose()


@pytest.fixture
def database(migrated):
    with migrated.begin() as connection:
        empty(connection)
    return migrated


def empty(connection):
    """Empty every table: row by row while they are small: new files for all of them take a tenth of a second."""
    tables = [each.name for each in reversed(metadata.sorted_tables)]
    is_large = connection.scalar(text("SELECT pg_relation_size('deliveries') > 500000"))
    step = f"TRUNCATE {', '.join(tables)}" if is_large else "; ".join(map("DELETE FROM {}".format, tables))
    connection.execute(text(step))


@pytest.fixture
def ledger(database):
    return PostgresLedger(database, Vault(database, MasterKeys([bytes(32)])))


@pytest.fixture
def inbound(ledger):
    return Inbound(ledger)


@pytest.fixture
def archive(database):
    return Archive(database)


@pytest.fixture
def desk(database):
    return Desk(database, actor="ana")


@pytest.fixture
def letters(ledger):
    return Letters(ledger, actor="ana")


@pytest.fixture
def sql(database):
    def run(statement, **values):
        with database.begin() as connection:
            result = connection.execute(text(statement), values)
            return result.all() if result.returns_rows else None

    return run


def lead(n=1, **options):
    return CreateLead(
        nome=f"Ana Teste {n}", email=f"ana.teste{n}@exemplo.com.br", interesse="produto_a", options=options
    )


def letter(n=1, **options):
    return SendEmail(to=[f"ana.teste{n}@exemplo.com.br"], subject="Teste", text="Olá", options=options)


def new(command=None, **changes):
    command = command or lead()
    values = {
        "id": new_id(),
        "command": command,
        "account": f"{command.service}:default",
        "producer": "tests",
        "recipient": "a***@exemplo.com.br",
        "key": command.options.key,
        "origin": None,
        "key_kept": timedelta(days=7),
        "same_within": timedelta(minutes=10),
        "expires_in": timedelta(hours=24),
        "hold_uncertain": False,
    }
    return NewDelivery(**(values | changes))


def due(ledger, most=100, stale=timedelta(seconds=10)):
    """Take what is due of every account and kind, as far as the gates let `most` of each go now."""
    found = ledger.backlogs(stale=stale, most=most)
    return [hint.id for each in found for hint in ledger.due(each, stale=stale, waits=[timedelta()] * most)]


def claim(ledger, *ids):
    return ledger.claim(ids, worker="w1", leases=LEASES)
