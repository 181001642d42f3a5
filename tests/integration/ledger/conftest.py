import pytest
from psycopg import Cursor
from sqlalchemy import event


@pytest.fixture
def statements(database):
    """Every statement that is sent from here on, as text."""
    seen = []

    class Noting(Cursor):
        def execute(self, query, *more, **options):
            seen.append(str(query))
            return super().execute(query, *more, **options)

    def lend(connection, *more):
        connection.cursor_factory = Noting

    event.listen(database, "checkout", lend)
    yield seen
    event.remove(database, "checkout", lend)
    database.dispose()
