"""Keys kept in the ledger, wrapped: the index key of the installation and one data key for each person."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from sqlalchemy import Connection, Engine, text

from config.settings import ConfigurationError
from delivery.redaction import names_a_person
from ledger.database import transaction
from ledger.sealing import MasterKeys, Unreadable, keyed_hash, new_data_key

_FIND = text("SELECT wrapped FROM vault WHERE name = 'index'")
_KEEP = text("INSERT INTO vault (name, wrapped) VALUES ('index', :wrapped) ON CONFLICT DO NOTHING")
_KEEP_PEOPLE = text("""
    INSERT INTO people (person, data_key)
    SELECT * FROM unnest(CAST(:people AS bytea[]), CAST(:keys AS bytea[])) ORDER BY 1 ON CONFLICT DO NOTHING
""")
_FIND_PEOPLE = text("SELECT person, data_key FROM people WHERE person = ANY(CAST(:people AS bytea[]))")
_OTHER_KEYS = (
    "these keys do not open this ledger: give this process the same keys as the processes that use it already"
    " (on a machine where `entrega up` made the key, it is in master.key in the data folder)"
)
# How the proof of an id that names a person begins.
HASHED = "hashed:"
# Data keys of people that this process met lately; each is 32 bytes.
_REMEMBERED = 4096


@dataclass(frozen=True)
class DataKey:
    """One person's key.

    Attributes:
        wrapped: As it stands in the ledger.
        is_new: Made here and not stored yet.
    """

    key: bytes = field(repr=False)
    wrapped: bytes = field(repr=False)
    is_new: bool = False


@dataclass(frozen=True)
class Vault:
    """Makes, wraps and opens keys."""

    engine: Engine
    masters: MasterKeys
    _known: dict[bytes, DataKey] = field(default_factory=dict, repr=False, compare=False)

    @cached_property
    def index_key(self) -> bytes:
        """The key of every keyed hash. It stays when master keys rotate, or people could not be found again.

        Raises:
            ConfigurationError: The master keys at hand are not those of this ledger.
        """
        with transaction(self.engine) as connection:
            wrapped = connection.scalar(_FIND)
            if wrapped is None:
                connection.execute(_KEEP, {"wrapped": self.masters.wrap(new_data_key(), "vault.index")})
                wrapped = connection.scalar(_FIND)
        return self.open_index_key(bytes(wrapped))

    def open_index_key(self, wrapped: bytes) -> bytes:
        """Unwrap an index key. Raises as `index_key`."""
        try:
            return self.masters.unwrap(wrapped, "vault.index")
        except Unreadable as err:
            raise ConfigurationError({"ENTREGA_MASTER_KEYS": _OTHER_KEYS}) from err

    def check_masters(self) -> None:
        """Make sure that the master keys at hand are those of this ledger. Raises as `index_key`."""
        _ = self.index_key

    def hash(self, text_: str) -> bytes:
        """Return the keyed hash of a text, e.g. a normalised address."""
        return keyed_hash(self.index_key, text_)

    def proof(self, provider_id: str) -> str:
        """Return a provider's id as the ledger keeps and shows it: one that names a person as its keyed hash.

        Equal ids give equal proofs, so an event still finds the message that it is about.
        """
        return f"{HASHED}{self.hash(provider_id).hex()[:32]}" if names_a_person(provider_id) else provider_id

    def data_keys(self, people: Iterable[bytes]) -> Mapping[bytes, DataKey]:
        """Return a data key for each person: the one this process knows, else a new one, which may turn out wrong.

        Who seals with it lets the ledger compare it with the person's own, and learns that one when they differ.
        """
        return {each: self._known.get(each) or self._new(each) for each in set(people)}

    def own_keys(self, connection: Connection, people: Iterable[bytes]) -> Mapping[bytes, bytes]:
        """Return the data key of each person as it stands in the ledger; missing ones are made in this transaction."""
        wanted = sorted(set(people))
        found = self._stored(connection, wanted)
        missing = [each for each in wanted if each not in found]
        if missing:
            wrapped = [self._new(each).wrapped for each in missing]
            connection.execute(_KEEP_PEOPLE, {"people": missing, "keys": wrapped})
            # Another transaction may have been first: what stands in the table is the key.
            found |= self._stored(connection, missing)
        return {person: self.open_data_key(person, each) for person, each in found.items()}

    def learn(self, connection: Connection, people: Iterable[bytes]) -> None:
        """Read the people's own data keys, or forget those that were erased."""
        wanted = list(set(people))
        if not wanted:
            return
        found = self._stored(connection, wanted)
        for person in wanted:
            self._known.pop(person, None)
            if person in found:
                self.remember(person, DataKey(self.open_data_key(person, found[person]), found[person]))

    def remember(self, person: bytes, known: DataKey) -> None:
        """Keep a data key that stands in the ledger for the person's next command."""
        while len(self._known) >= _REMEMBERED:
            self._known.pop(next(iter(self._known)), None)
        self._known[person] = DataKey(known.key, known.wrapped)

    def _stored(self, connection: Connection, people: Sequence[bytes]) -> dict[bytes, bytes]:
        rows = connection.execute(_FIND_PEOPLE, {"people": people})
        return {bytes(row.person): bytes(row.data_key) for row in rows}

    def _new(self, person: bytes) -> DataKey:
        key = new_data_key()
        return DataKey(key, self.masters.wrap(key, person_place(person)), is_new=True)

    def open_data_key(self, person: bytes, wrapped: bytes) -> bytes:
        """Unwrap one person's data key.

        Raises:
            Unreadable: It was wrapped by a master key that is gone.
        """
        return self.masters.unwrap(wrapped, person_place(person))


def person_place(person: bytes) -> str:
    """Return what a person's wrapped data key is bound to."""
    return f"people.data_key/{person.hex()}"
