"""The impatient agent: it gives up on a call that takes long and makes it again. Each wish has one effect."""

from datetime import UTC, datetime, timedelta
from uuid import UUID

import psutil
import pytest
from mcp.shared.exceptions import MCPError

from sandbox.proxy import Hurt, Proxy
from tests.integration.ingress.mcp_agents import entrega_mcp, over_http, over_stdio

GIVES_UP_AFTER_S = 1.0
LOST_CALLS = 2
PROVIDERS = ("crm", "graph", "smtp")


def wishes(name, **more):
    """Return one wish for each tool that has an effect."""
    return [
        ("create_lead", {"nome": "Ana Teste", "email": f"{name}@exemplo.com.br", "interesse": "produto_a"} | more),
        ("send_whatsapp", {"to": "+5511999990042", "text": f"Olá de {name}!"} | more),
        ("send_email", {"to": [f"{name}@exemplo.com.br"], "subject": "Teste", "text": "Olá!"} | more),
    ]


@pytest.fixture
def key(running):
    return running.app.settings.bootstrap_key().get_secret_value()


@pytest.fixture
def proxy(running):
    """Stand between the agent and the web page, to lose answers."""
    proxy = Proxy(int(running.system.url.rpartition(":")[2])).start()
    yield proxy
    proxy.stop()


async def give_up(client, tool, arguments):
    """Make a call whose answer does not come in time."""
    with pytest.raises(MCPError):
        await client.call_tool(tool, arguments, read_timeout_seconds=GIVES_UP_AFTER_S)


async def insist_over_pipes(client, server, wish):
    """Make a call several times while the server stands still, and then once more while it works; return its answer."""
    server.suspend()
    for _ in range(LOST_CALLS):
        await give_up(client, *wish)
    server.resume()
    result = await client.call_tool(*wish)
    assert not result.is_error, result.content
    return result.structured_content


@pytest.fixture
def insist(proxy, key):
    """Make a call whose answers are lost on the way, each time in a session of its own, and then once more, whole."""

    def _insist(wish, mode="auto"):
        agent = over_http(proxy.url, key, mode)

        async def lose(client):
            await client.list_tools()  # whatever the client says to begin with has arrived
            proxy.hurt(Hurt("lose_answer"))
            await give_up(client, *wish)

        for _ in range(LOST_CALLS):
            agent.work(lose)
            proxy.heal()
        return agent.does(*wish)

    return _insist


def settled(running, receipts):
    """Wait until all is delivered, and return how often each took effect."""
    ids = [UUID(each["id"]) for each in receipts]
    running.until(ids, "succeeded")
    return [running.effects(*PROVIDERS)[str(each)] for each in ids]


@pytest.mark.parametrize(
    ("name", "mode", "more"),
    [("pressa1", "auto", {}), ("pressa2", "legacy", {}), ("pressa3", "auto", {"options": {"key": "conversa-7"}})],
    ids=["no key", "no key, older protocol", "one key for each call"],
)
def test_over_http_an_agent_that_repeats_lost_calls_has_one_effect_each(running, proxy, insist, name, mode, more):
    before = running.accepted()
    asked = [(tool, _own_key(body, tool)) for tool, body in wishes(name, **more)]

    receipts = [insist(each, mode) for each in asked]

    assert settled(running, receipts) == [1, 1, 1]
    assert running.accepted() - before == len(asked)
    assert proxy.struck["lose_answer"] >= LOST_CALLS * len(asked)


def test_over_pipes_an_agent_that_repeats_late_calls_has_one_effect_each(running):
    before = running.accepted()
    asked = wishes("pressa4")

    async def work(client):
        await client.list_tools()
        (server,) = [each for each in psutil.Process().children() if "mcp" in each.cmdline()]
        return [await insist_over_pipes(client, server, each) for each in asked]

    receipts = over_stdio(entrega_mcp(**running.system.variables)).work(work)

    assert settled(running, receipts) == [1, 1, 1]
    assert running.accepted() - before == len(asked)


def test_an_agent_that_lost_the_answer_to_a_cancel_may_cancel_again(running, proxy, key, insist):
    wish = wishes("pressa5", options={"send_at": (datetime.now(UTC) + timedelta(days=40)).isoformat()})[0]
    id_ = over_http(proxy.url, key).does(*wish)["id"]

    answer = insist(("cancel_delivery", {"id": id_, "reason": "desistiu"}))

    assert answer["state"] == running.find(UUID(id_)).state == "canceled"


def _own_key(body, tool):
    options = body.get("options")
    return body | {"options": {"key": f"{options['key']}-{tool}"}} if options else body
