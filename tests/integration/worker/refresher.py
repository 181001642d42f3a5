"""One process that works with tokens; started by test_token_processes.py.

Arguments: what to do, where tokens are shared (a database URL or a Redis URL), the token endpoint. Each line on
standard input asks for one more step; tells one token, or one error code with its message, for each.

- `ask`: one token for each line.
- `die`: as `ask`, but killed between the token endpoint's answer and the store.
- `storm`: one token, and from the second line on sixteen threads learn at once that the API refused the last one.
"""

import os
import signal
import sys
from concurrent.futures import ThreadPoolExecutor

from pydantic import SecretStr
from redis import Redis

from config.policy import Timeouts
from delivery.errors import ProviderError
from ledger.credentials import PostgresCredentials
from ledger.database import connect
from ledger.sealing import MasterKeys
from ledger.vault import Vault
from providers.grant_shelf import GrantShelf
from providers.http import HttpClient
from providers.oauth import ClientCredentials, TokenSource
from providers.token_shelf import TokenShelf


class _DiesBeforeStoring(PostgresCredentials):
    def replace(self, account, version, secrets):
        os.kill(os.getpid(), signal.SIGKILL)


def _shelf(how, place, us):
    if place.startswith("redis"):
        plain = {"seal": lambda each: each[::-1], "unseal": lambda each: each[::-1]}
        return TokenShelf(redis=Redis.from_url(place), service="crm", mark=us.mark(), **plain)
    database = connect(place, name="tests")
    store = _DiesBeforeStoring if how == "die" else PostgresCredentials
    return GrantShelf(store(database, Vault(database, MasterKeys([bytes(32)]))), "crm:default")


def _storm(source, used):
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda _: source.renew(used), range(16)))
    return source.token()


def _tell(line):
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def main():
    how, place, token_url = sys.argv[1:]
    us = ClientCredentials(token_url, "sandbox-client", SecretStr("sandbox-client-secret"))
    source = TokenSource(
        credentials=us,
        shelf=_shelf(how, place, us),
        http=HttpClient(),
        timeouts=Timeouts(connect_s=1, read_s=2, total_s=2),
        margin=lambda life: life / 2,
    )
    _tell("ready")
    last = None
    for _ in sys.stdin:
        try:
            last = _storm(source, last) if how == "storm" and last else source.token()
            _tell(last)
        except ProviderError as err:
            _tell(f"{err.code}: {err}")


if __name__ == "__main__":
    main()
