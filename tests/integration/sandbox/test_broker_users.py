"""Each user of the broker does its own work and nothing else; the embedded Valkey, compose and the page agree."""

import os
import shlex
import stat
import subprocess
import time
from pathlib import Path

import pytest
import redis
import yaml
from celery import Celery
from redis.exceptions import AuthenticationError, NoPermissionError, ResponseError

from config.broker_users import RULES
from config.policy import load_specs
from delivery.limiter import LimitPlan, Refusal, Tuning
from sandbox.doors import free_port
from sandbox.valkey import ValkeyServer, _program
from worker.limit_book import Ask, Book, End

HOME = Path(__file__).parents[3]
LEAD = {"nome": "Ana Teste", "email": "ana.teste@exemplo.com.br", "interesse": "produto_a"}

# What no part of ours needs, and what turns a leaked password into the whole server, or into its machine.
NEVER = [
    "EVAL 'return 1' 0", "CONFIG GET requirepass", "CONFIG SET dir /tmp", "FLUSHALL", "FLUSHDB", "KEYS *", "SHUTDOWN",
    "ACL LIST", "ACL SETUSER mallory", "MONITOR", "CLIENT LIST", "CLIENT KILL TYPE normal", "SAVE",
    "REPLICAOF 127.0.0.1 1", "SLAVEOF NO ONE", "MIGRATE 127.0.0.1 1 key 0 1", "MODULE LIST", "SCRIPT FLUSH",
    "FUNCTION LIST", "SWAPDB 0 1", "SORT celery", "EVAL_RO 'return 1' 0", "BGREWRITEAOF", "LATENCY DOCTOR",
]  # fmt: skip
FORBIDDEN = {
    "worker": NEVER,
    "producer": [
        *NEVER, "INFO", "LRANGE crm 0 -1", "RPOP crm", "BRPOP crm 1", "HGETALL unacked", "GET api:crm:token", "DEL crm",
        "PUBLISH /0.celery.pidbox x", "SUBSCRIBE /0.celeryev/x", "SCAN 0", "RANDOMKEY", "SET entrega:x 1",
    ],
    "flower": [
        *NEVER, "INFO", "LRANGE crm 0 -1", "LPUSH crm x", "BRPOP celery 1", "HGETALL unacked", "GET api:crm:token",
        "DEL crm",
        "HSET entrega:breaker:{crm:default/create_lead}:override mode open", "SUBSCRIBE other", "SCAN 0",
    ],
    "foreign": [
        *NEVER, "INFO", "LRANGE celery 0 -1", "LINDEX celery 0", "RPOP celery", "BRPOP celery 1", "DEL celery",
        "LTRIM celery 1 0", "LPUSH crm x", "LPUSH upkeep x", "LPUSH celeryev.x x", "LPUSH unacked x",
        "GET api:crm:token", "HGETALL unacked",
        "PUBLISH /0.celery.pidbox x", "SUBSCRIBE /0.celeryev/x", "PSUBSCRIBE *", "SCAN 0", "RANDOMKEY", "TIME",
        "SADD _kombu.binding.celery.pidbox x", "SMEMBERS _kombu.binding.celery", "EVALSHA x 0", "SCRIPT LOAD x",
        "SET celery x", "RENAME celery crm", "COPY celery crm", "OBJECT ENCODING celery", "TYPE celery",
        "EXISTS unacked",
    ],
}  # fmt: skip


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    started = ValkeyServer(tmp_path_factory.mktemp("users"))
    started.start()
    yield started
    started.stop()


@pytest.fixture
def admin(server):
    with redis.Redis.from_url(server.url) as client:
        client.flushall()
        client.acl_log_reset()
        yield client


@pytest.mark.parametrize(("user", "command"), [(user, each) for user, listed in FORBIDDEN.items() for each in listed])
def test_statement_25_no_user_may_do_more_than_its_part_needs(server, admin, user, command):
    with redis.Redis.from_url(server.url_of(user)) as client, pytest.raises(NoPermissionError):
        client.execute_command(*shlex.split(command))


@pytest.mark.parametrize("priority", [None, 0, 3, 6, 9])
def test_a_foreign_celery_client_sends_a_command_with_its_own_user(server, admin, priority):
    client = Celery("stranger", broker=server.url_of("foreign"), set_as_current=False)

    with client.connection_for_write() as connection:
        client.send_task("create_lead", kwargs=LEAD, connection=connection, priority=priority)

    assert sum(admin.llen(f"celery{step}") for step in ("", "\x06\x163", "\x06\x166", "\x06\x169")) == 1
    assert admin.acl_log() == []


def test_a_message_that_is_far_too_large_never_enters(server, admin):
    with redis.Redis.from_url(server.url_of("foreign")) as client, pytest.raises(redis.RedisError):
        client.lpush("celery", b"x" * 40_000_000)

    assert admin.llen("celery") == 0


def test_passwords_stand_in_private_files_alone_and_differ(server):
    urls = [server.url, *(server.url_of(user) for user in RULES)]
    passwords = {url.split(":")[2].split("@")[0] for url in urls}
    private = {path.name for path in server.data.iterdir() if stat.S_IMODE(path.stat().st_mode) == 0o600}

    assert len(passwords) == len(urls)
    assert {"valkey.json", "valkey.conf", "valkey.users"} <= private
    assert not any(each in (server.data / "valkey.users").read_text() for each in passwords)


def test_users_stay_the_same_after_a_restart(server):
    before = server.url_of("foreign")

    server.restart()

    assert server.url_of("foreign") == before
    with redis.Redis.from_url(before) as client:
        assert client.ping()


def test_compose_has_the_same_users_with_the_passwords_of_its_variables(tmp_path):
    service = yaml.safe_load((HOME / "docker-compose.yml").read_text(encoding="utf-8"))["services"]["valkey"]
    shell, *rest = [each.replace("$$", "$") for each in service["command"]]
    port = free_port()
    stub = tmp_path / "valkey-server"
    stub.write_text(f'#!/bin/sh\nexec "{_program()}" "$@" --port {port} --dir "{tmp_path}" --bind 127.0.0.1\n')
    stub.chmod(0o700)
    passwords = {name: f"{name}invented" for name in service["environment"] if name != "REDISCLI_AUTH"}
    passwords["VALKEY_FOREIGN_PASSWORD"] = ""
    environment = {**passwords, "PATH": f"{tmp_path}:{os.environ['PATH']}", "TMPDIR": str(tmp_path)}

    with subprocess.Popen([shell, *rest], env=environment, cwd=tmp_path, stdout=subprocess.DEVNULL) as process:
        try:
            worker = _answering(f"redis://worker:{passwords['VALKEY_PASSWORD']}@127.0.0.1:{port}/0")
            arguments = Path(f"/proc/{process.pid}/cmdline").read_text()
            for user in ("producer", "flower"):
                secret = passwords[f"VALKEY_{user.upper()}_PASSWORD"]
                assert redis.Redis.from_url(f"redis://{user}:{secret}@127.0.0.1:{port}/0").ping()
            for login in ("", "foreign:@", "foreign:x@", ":VALKEY_PASSWORDinvented@"):
                with pytest.raises((AuthenticationError, ResponseError)):
                    redis.Redis.from_url(f"redis://{login}127.0.0.1:{port}/0").ping()
            assert not any(each in arguments for each in passwords.values() if each)
            worker.close()
        finally:
            process.terminate()

    [written] = [path.read_text() for path in tmp_path.glob("tmp.*")]
    lines = dict(line.split(" on ", 1) for line in written.splitlines()[1:])
    for user, rule in RULES.items():
        assert lines[f"user {user}"].split(" ", 1)[1].strip() == rule


def _answering(url):
    deadline = time.monotonic() + 60
    while True:
        client = redis.Redis.from_url(url)
        try:
            client.ping()
        except redis.ConnectionError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)
        else:
            return client


def test_the_page_shows_the_same_rules():
    page = (HOME / "docs" / "broker.md").read_text(encoding="utf-8")

    for user, rule in RULES.items():
        assert f"ACL SETUSER {user} on >PASSWORD {rule}\n" in page


@pytest.mark.parametrize("service", ["whatsapp", "email", "callback"])
def test_the_workers_user_keeps_the_shared_limits(server, admin, service):
    tuning = Tuning()
    plan = LimitPlan.of(load_specs()[service].limits, tuning)
    ask = Ask("delivery", f"{service}:default", "person", 1_000_000)

    with redis.Redis.from_url(server.url_of("worker")) as client:
        book = Book(client, tuning, lambda: 0)
        _, gap = book.ask([ask], plan, owed=0, pause_us=0)
        closed = book.remember(ask.account, gap, plan, [])
        turns, gap = book.ask([ask], plan, owed=0, pause_us=0)
        book.end(End("delivery", ask.account, "person", 1000), plan, Refusal())

    assert (closed, gap, [each.wait_us for each in turns]) == (True, None, [None])
    assert admin.acl_log() == []
