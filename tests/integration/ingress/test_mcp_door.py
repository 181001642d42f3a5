"""The MCP door, met by the SDK's own client: over HTTP against a real server, over pipes against a real process."""

import json
import subprocess
from base64 import b64encode
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from threading import Timer
from uuid import UUID, uuid4

import pytest
from mcp.shared.exceptions import MCPError

from delivery.producers import DEFAULT
from ledger.api_keys import ApiKeys
from ledger.producers import Producers
from tests.integration.conftest import claim
from tests.integration.ingress.mcp_agents import entrega_mcp, over_http, over_stdio

TOOLS = ["create_lead", "send_whatsapp", "send_email", "check_delivery", "cancel_delivery", "simulate"]
LEAD = {"nome": "Ana Teste", "email": "ana.teste@exemplo.com.br", "interesse": "produto_a"}
CALLS = [
    ("create_lead", LEAD),
    ("send_whatsapp", {"to": "+5511999990001", "text": "Olá, Ana!"}),
    ("send_email", {"to": ["ana.teste@exemplo.com.br"], "subject": "Teste", "text": "Olá!"}),
]
LATER = {"send_at": (datetime.now(UTC) + timedelta(days=40)).isoformat()}


@pytest.fixture
def program(tmp_path, database, postgres_url, redis_url):
    """Return how `entrega mcp` is started, as the client of an agent does."""
    keys = b64encode(bytes(32)).decode()  # those of the ledger that `door` stands on
    variables = {"DATABASE_URL": postgres_url, "REDIS_URL": redis_url, "ENTREGA_DATA": str(tmp_path)}
    variables["ENTREGA_MASTER_KEYS"] = keys
    return lambda *options, **more: entrega_mcp(*options, **variables, **more)


@pytest.fixture(params=["auto", "legacy"])
def agent(door, request):
    """An agent over HTTP, by the newest protocol and by the handshake of the older ones."""
    return over_http(door.url, door.key, request.param)


@pytest.fixture
def shop(door):
    return over_http(door.url, door.with_key("loja", "submit", "read").key)


def test_six_tools_are_offered_and_explained(agent):
    found = agent.work(lambda client: client.list_tools()).tools

    assert [each.name for each in found] == TOOLS
    assert all("next_step" in json.dumps(each.output_schema) for each in found)
    assert {each.input_schema["additionalProperties"] for each in found} == {False}


# What a model is told of the tools, as shipped. A change of it changes what agents do: read it, then pin it anew.
TOLD = "82bb579bbb453038fce41cb56a9ab1b1af89d56f1d59577c05bd25aea619b08f"


def test_statement_42_the_text_of_the_tools_is_hashed_and_changes_only_on_purpose(agent):
    found = agent.work(lambda client: client.list_tools())
    told = [each.model_dump(mode="json", by_alias=True) for each in found.tools]
    fields = ("name", "title", "description", "inputSchema")
    text = json.dumps([{name: each[name] for name in fields} for each in told], sort_keys=True, separators=(",", ":"))

    assert found.meta["entrega/tools-sha256"] == sha256(text.encode()).hexdigest() == TOLD


@pytest.mark.parametrize(("tool", "arguments"), CALLS)
def test_a_command_is_answered_with_the_same_receipt_as_over_rest(agent, archive, door, tool, arguments):
    receipt = agent.does(tool, arguments)

    assert (receipt["kind"], receipt["state"], receipt["next_step"]) == (tool, "ready", "wait")
    assert receipt["message"].endswith("em breve")
    assert archive.find(UUID(receipt["id"])).producer == "bootstrap"
    assert door.voice.sent == [UUID(receipt["id"])]


def test_the_text_of_an_answer_is_the_structured_one(agent):
    result = agent.call("create_lead", LEAD)

    assert json.loads(result.content[0].text) == result.structured_content


@pytest.mark.parametrize(("tool", "arguments"), CALLS)
def test_a_repeat_without_a_key_is_told_as_a_duplicate(shop, archive, tool, arguments):
    first = shop.does(tool, arguments)

    again = shop.does(tool, arguments)

    assert (again["id"], again["duplicate_of"]) == (first["id"], first["id"])
    assert len(archive.search()) == 1


def test_the_same_key_gives_the_first_receipt_and_another_body_is_refused(shop, archive):
    first = shop.does("create_lead", LEAD | {"options": {"key": "conversa-1"}})

    again = shop.does("create_lead", LEAD | {"options": {"key": "conversa-1"}})
    other = shop.refused("create_lead", LEAD | {"nome": "Bia Teste", "options": {"key": "conversa-1"}})

    assert again["id"] == first["id"]
    assert (other["error"]["code"], other["next_step"]) == ("key_reused", "fix_fields")
    assert len(archive.search()) == 1


def test_a_repeat_over_another_door_is_the_same_delivery(door, shop, archive):
    first = door.with_key("loja", "submit").post("/v1/leads", LEAD).json()

    again = shop.does("create_lead", LEAD)

    assert again["duplicate_of"] == first["id"]
    assert len(archive.search()) == 1


@pytest.mark.parametrize(
    ("tool", "arguments", "fields"),
    [
        ("create_lead", LEAD | {"email": "ana", "interesse": "nada"}, ["email", "interesse"]),
        ("create_lead", {}, ["nome", "email", "interesse"]),
        ("send_whatsapp", {"to": "+5511999990001", "media": {"type": "image", "url": "http://10.0.0.1/a"}},
         ["media.url"]),
        ("send_whatsapp", {"to": "+5511999990001", "message": {"type": "text"}}, ["message"]),
        ("send_email", CALLS[2][1] | {"headers": {"X-A": "b"}, "options": {"callback_url": "http://10.0.0.1/"}},
         ["headers", "options.callback_url"]),
        ("create_lead", LEAD | {"options": {"dry_run": True}}, ["options.dry_run"]),
        ("simulate", {"tool": "drop_tables", "arguments": {}}, ["tool"]),
        ("simulate", {"tool": "create_lead", "arguments": LEAD | {"email": "ana"}}, ["email"]),
        ("cancel_delivery", {"id": str(uuid4())}, ["reason"]),
        ("check_delivery", {"id": str(uuid4()), "wait_s": 3600}, ["wait_s"]),
        ("check_delivery", {}, ["id"]),
    ],
)  # fmt: skip
def test_a_wrong_argument_is_named_and_nothing_is_written(shop, archive, tool, arguments, fields):
    refused = shop.refused(tool, arguments)

    assert (refused["error"]["code"], refused["next_step"]) == ("invalid_command", "fix_fields")
    assert [each["field"] for each in refused["error"]["details"]] == fields
    assert archive.search() == []


@pytest.mark.parametrize("nothing", [{"id": "nada"}, {"id": str(uuid4())}])
def test_an_id_that_nobody_has_is_not_found(shop, nothing):
    refused = shop.refused("check_delivery", nothing)

    assert refused["error"]["code"] == "not_found"


def test_statement_35_another_producers_delivery_is_not_found_by_an_agent(door, shop, archive):
    other = over_http(door.url, door.with_key("vizinha", "submit", "read").key)
    mine = shop.does("create_lead", LEAD | {"options": LATER})["id"]

    seen = other.refused("check_delivery", {"id": mine})
    canceled = other.refused("cancel_delivery", {"id": mine, "reason": "engano"})

    assert [seen["error"]["code"], canceled["error"]["code"]] == ["not_found", "not_found"]
    assert archive.find(UUID(mine)).state == "waiting"


def test_a_delivery_is_followed_and_canceled_and_a_second_cancel_is_no_failure(shop, archive):
    id_ = shop.does("create_lead", LEAD | {"options": LATER})["id"]
    seen = shop.does("check_delivery", {"id": id_})

    first = shop.does("cancel_delivery", {"id": id_, "reason": "desistiu"})
    again = shop.does("cancel_delivery", {"id": id_, "reason": "desistiu"})

    assert (seen["state"], seen["next_step"], seen["recipient"]) == ("waiting", "wait", "a***@exemplo.com.br")
    assert first == again == {"id": id_, "state": "canceled", "message": "O pedido foi cancelado.", "next_step": "none"}
    assert archive.find(UUID(id_)).state == "canceled"


def test_what_is_being_sent_cannot_be_canceled(shop, ledger):
    id_ = shop.does("create_lead", LEAD)["id"]
    claim(ledger, UUID(id_))

    refused = shop.refused("cancel_delivery", {"id": id_, "reason": "desistiu"})

    assert (refused["error"]["code"], refused["next_step"]) == ("not_cancelable", "do_not_resend")


def test_news_are_waited_for_no_longer_than_asked(shop):
    id_ = shop.does("create_lead", LEAD)["id"]

    seen = shop.does("check_delivery", {"id": id_, "wait_s": 1})

    assert seen["state"] == "ready"


def test_statement_42_a_simulation_writes_nothing_and_knows_a_repeat(shop, archive):
    asked = {"tool": "create_lead", "arguments": LEAD}

    before = shop.does("simulate", asked)
    id_ = shop.does("create_lead", LEAD)["id"]
    after = shop.does("simulate", asked)

    assert before["simulated"]
    assert (after["would"], after["next_step"], after["duplicate_of"]) == ("repeat", "do_not_resend", id_)
    assert len(archive.search()) == 1


@pytest.mark.parametrize(
    ("scopes", "tool", "arguments", "missing"),
    [
        (["submit:send_email", "read"], "create_lead", LEAD, "submit:create_lead"),
        (["submit:send_email"], "check_delivery", {"id": str(uuid4())}, "read"),
        (["read"], "cancel_delivery", {"id": str(uuid4()), "reason": "engano"}, "operate"),
        (["submit:send_email"], "simulate", {"tool": "create_lead", "arguments": LEAD}, "submit:create_lead"),
    ],
)
def test_statement_42_a_key_without_the_tools_scope_is_refused(door, archive, scopes, tool, arguments, missing):
    agent = over_http(door.url, door.with_key("loja", *scopes).key)

    refused = agent.refused(tool, arguments)

    assert (refused["error"]["code"], refused["next_step"]) == ("missing_scope", "ask_operator")
    assert missing in refused["error"]["message"]
    assert archive.search() == []


@pytest.mark.parametrize(
    ("changes", "code", "next_step"),
    [({"per_day": 0}, "daily_cap", "wait"), ({"allowed": frozenset()}, "recipient_not_allowed", "ask_operator")],
)
@pytest.mark.parametrize(("tool", "arguments"), [CALLS[0], ("simulate", {"tool": "create_lead", "arguments": LEAD})])
def test_statement_42_what_the_producers_policy_forbids_is_refused(
    shop, database, archive, changes, code, next_step, tool, arguments
):
    Producers(database, actor="ana").set("loja", replace(DEFAULT, **changes), reason="test")

    refused = shop.refused(tool, arguments)

    assert (refused["error"]["code"], refused["next_step"]) == (code, next_step)
    assert refused["error"]["next_step"] == next_step
    assert archive.search() == []


def test_sentences_are_english_when_asked_for(door):
    agent = over_http(door.url, door.key, **{"Accept-Language": "en"})

    receipt = agent.does("create_lead", LEAD)

    assert receipt["message"] == "Your data has been registered and will be processed soon"


def test_a_tool_that_is_not_there_is_an_error_of_the_protocol(shop):
    async def ask(client):
        with pytest.raises(MCPError, match="there is no such tool"):
            await client.call_tool("drop_tables", {})

    shop.work(ask)


def test_nothing_is_promised_while_the_ledger_is_away(doors, stranger, archive):
    door = doors(book=stranger)
    agent = over_http(door.url, door.key)

    refused = agent.refused("create_lead", LEAD)

    assert (refused["error"]["code"], refused["next_step"], refused["retry_after_s"]) == ("ledger_away", "wait", 5)
    assert archive.search() == []


CALL = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "create_lead", "arguments": LEAD}}
ACCEPT = {"Accept": "application/json, text/event-stream", "Content-Type": "application/json"}


@pytest.mark.parametrize(
    ("headers", "status", "code"),
    [
        ({"Authorization": ""}, 401, "missing_key"),
        ({"Authorization": "Bearer entrega_abc"}, 401, "mistyped_key"),
        ({"Authorization": "Basic YTpi"}, 401, "missing_key"),
        ({"Origin": "http://127.0.0.1:8080"}, 403, "browser"),
        ({"Content-Type": "text/plain"}, 415, "wrong_media_type"),
        ({"Content-Type": "application/json; charset=utf-16"}, 415, "wrong_media_type"),
    ],
)
def test_who_may_not_come_in_is_told_in_the_one_shape(door, archive, headers, status, code):
    answer = door.ask("POST", "/mcp", data=json.dumps(CALL), headers=ACCEPT | headers)

    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
    assert answer.headers.get("WWW-Authenticate", "").startswith("Bearer") == (status == 401)
    assert archive.search() == []


def test_a_revoked_key_and_a_key_of_nobody_are_not_admitted(door):
    made, secret = ApiKeys(door.app.database).create("loja", ["submit"], actor="ana")
    ApiKeys(door.app.database).revoke(made.id, actor="ana", reason="vazou")

    answer = door.ask("POST", "/mcp", key=secret, data=json.dumps(CALL), headers=ACCEPT)

    assert (answer.status_code, answer.json()["error"]["code"]) == (401, "unknown_key")


@pytest.mark.parametrize("method", ["GET", "DELETE"])
def test_there_is_no_session_to_listen_to_or_to_end(door, method):
    answer = door.ask(method, "/mcp", headers=ACCEPT)

    assert (answer.status_code, answer.json()["error"]["code"]) == (405, "method_not_allowed")


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b'{"jsonrpc"', 400, "invalid_json"),
        (b"[" * 100_000, 400, "invalid_json"),
        (json.dumps(CALL).replace('"nome"', '"email": "x", "nome"').encode(), 400, "invalid_json"),
        (json.dumps(CALL).replace('"Ana Teste"', "NaN").encode(), 400, "invalid_json"),
        (json.dumps(CALL).replace("Ana Teste", r"\ud800").encode(), 400, "invalid_json"),
        (json.dumps(CALL).replace("Ana", "Aná").encode("latin-1"), 400, "invalid_json"),
        (b"[]", 400, "invalid_json"),
        (b" " * 4_000_001, 413, "too_large"),
    ],
    ids=["cut", "deep", "twice", "nan", "surrogate", "latin-1", "list", "large"],
)
def test_bad_json_is_refused_and_nothing_is_written(door, archive, body, status, code):
    answer = door.ask("POST", "/mcp", data=body, headers=ACCEPT)

    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
    assert archive.search() == []


MANY = b'{"a":[' + b"[]," * 1_300_000 + b"[]]}"


@pytest.mark.parametrize(("scope", "status"), [("read", 413), ("operate", 413), ("submit", 400)])
def test_a_flood_of_values_is_refused_before_it_is_parsed(door, scope, status):
    answer = door.with_key("loja", scope).ask("POST", "/mcp", data=MANY, headers=ACCEPT)

    assert answer.status_code == status


@pytest.mark.parametrize("path", ["/v1/leads", "/v1/bulk", "/v1/simulate"])
def test_a_flood_of_values_is_refused_over_rest_as_well(door, path):
    many = MANY if path != "/v1/leads" else MANY[:900_000] + b"[]]}"

    answers = [door.ask("POST", path, data=many, headers={"Content-Type": each}) for each in
               ("application/json", *(["application/x-ndjson"] if path == "/v1/bulk" else []))]  # fmt: skip

    assert {each.status_code for each in answers} <= {400, 413}


def test_an_agent_on_this_machine_works_over_pipes_with_its_producers_key(program, database, archive):
    _, key = ApiKeys(database).create("loja", ["submit", "read"], actor="ana")

    async def work(client):
        tools = (await client.list_tools()).tools
        lead = (await client.call_tool("create_lead", LEAD)).structured_content
        again = (await client.call_tool("create_lead", LEAD)).structured_content
        return [each.name for each in tools], lead, again

    tools, lead, again = over_stdio(program("--en", ENTREGA_API_KEY=key)).work(work)

    assert tools == TOOLS
    assert lead["message"] == "Your data has been registered and will be processed soon"
    assert again["duplicate_of"] == lead["id"]
    assert [each.producer for each in archive.search()] == ["loja"]


def test_the_sandboxs_admin_key_serves_where_none_is_set(program, archive):
    receipt = over_stdio(program()).does("create_lead", LEAD)

    assert archive.find(UUID(receipt["id"])).producer == "bootstrap"


@pytest.mark.parametrize("value", ["NaN", "[" * 40 + "]" * 40], ids=["nan", "deep"])
def test_over_pipes_too_a_value_that_is_no_json_is_refused(program, archive, value):
    how = program()
    about = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}}
    hello = json.dumps({"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": about})
    ready = json.dumps({"jsonrpc": "2.0", "method": "notifications/initialized"})
    call = json.dumps(CALL).replace('"Ana Teste"', value)

    with subprocess.Popen([how.command, *how.args], env=how.env, stdin=-1, stdout=-1, text=True) as server:
        patience = Timer(240, server.kill)
        patience.start()
        server.stdin.write(f"{hello}\n{ready}\n{call}\n")
        server.stdin.flush()
        server.stdout.readline()
        answer = server.stdout.readline()
        patience.cancel()
        server.stdin.close()

    assert "invalid_json" in answer
    assert archive.search() == []


def test_a_key_that_is_not_good_ends_the_program(program):
    how = program(ENTREGA_API_KEY="entrega_abc")

    done = subprocess.run(
        [how.command, *how.args], env=how.env, capture_output=True, text=True, timeout=240, check=False
    )

    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "ENTREGA_API_KEY: the API key is cut or mistyped; copy it again\n"


def test_an_account_that_was_added_is_offered_without_a_restart(door, agent):
    def offered():
        tools = {each.name: each for each in agent.work(lambda client: client.list_tools()).tools}
        return tools["send_email"].input_schema["properties"]["options"]["properties"]["account"]["enum"]

    before = offered()
    values = {"SMTP_HOST": "127.0.0.1", "FROM_EMAIL": "reserva@exemplo.com.br"}
    door.app.accounts.put("email:reserva", values, actor="ana", reason="spare")

    body = {"to": ["rui@exemplo.com.br"], "subject": "Teste", "text": "Olá!", "options": {"account": "email:reserva"}}
    assert (before, offered()) == (["email:default"], ["email:default", "email:reserva"])
    assert agent.does("send_email", body)["account"] == "email:reserva"
