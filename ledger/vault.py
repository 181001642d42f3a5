"""Keys kept in the ledger, wrapped: the index key of the installation and one data key for each person."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

from sqlalchemy import Connection, Engine, text

from ledger.database import transaction
from ledger.sealing import MasterKeys, keyed_hash, new_data_key

_FIND = text("SELECT wrapped FROM vault WHERE name = 'index'")
_KEEP = text("INSERT INTO vault (name, wrapped) VALUES ('index', :wrapped) ON CONFLICT DO NOTHING")
_FIND_PEOPLE = text("SELECT person, data_key FROM people WHERE person = ANY(CAST(:people AS bytea[]))")
_KEEP_PEOPLE = text("""
    INSERT INTO people (person, data_key)
    SELECT * FROM unnest(CAST(:people AS bytea[]), CAST(:keys AS bytea[])) AS new (person, data_key) ORDER BY person
    ON CONFLICT DO NOTHING
""")


@dataclass(frozen=True)
class Vault:
    """Makes, wraps and opens keys."""

    engine: Engine
    masters: MasterKeys

    @cached_property
    def index_key(self) -> bytes:
        """The key of every keyed hash. It stays when master keys rotate, or people could not be found again."""
        with transaction(self.engine) as connection:
            wrapped = connection.scalar(_FIND)
            if wrapped is None:
                connection.execute(_KEEP, {"wrapped": self.masters.wrap(new_data_key(), "vault.index")})
                wrapped = connection.scalar(_FIND)
        return self.masters.unwrap(bytes(wrapped), "vault.index")

    def hash(self, text_: str) -> bytes:
        """Return the keyed hash of a text, e.g. a normalised address."""
        return keyed_hash(self.index_key, text_)

    def data_keys(self, connection: Connection, people: Iterable[bytes]) -> Mapping[bytes, bytes]:
        """Return a data key for each person, making the missing ones in this transaction."""
        wanted = sorted(set(people))
        found = self._find(connection, wanted)
        missing = [each for each in wanted if each not in found]
        if missing:
            wrapped = [self.masters.wrap(new_data_key(), person_place(each)) for each in missing]
            connection.execute(_KEEP_PEOPLE, {"people": missing, "keys": wrapped})
            # Another transaction may have been first: what stands in the table is the key.
            found |= self._find(connection, missing)
        return found

    def open_data_key(self, person: bytes, wrapped: bytes) -> bytes:
        """Unwrap one person's data key.

        Raises:
            Unreadable: It was wrapped by a master key that is gone.
        """
        return self.masters.unwrap(wrapped, person_place(person))

    def _find(self, connection: Connection, people: list[bytes]) -> dict[bytes, bytes]:
        rows = connection.execute(_FIND_PEOPLE, {"people": people})
        return {bytes(row.person): self.open_data_key(bytes(row.person), bytes(row.data_key)) for row in rows}


def person_place(person: bytes) -> str:
    """Return what a person's wrapped data key is bound to."""
    return f"people.data_key/{person.hex()}"
