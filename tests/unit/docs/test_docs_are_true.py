"""What the pages show works: Python blocks, command lines, links and paths; and pasting a block does no harm."""

import json
import re
import shlex
import sys
from base64 import b64encode
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType, SimpleNamespace
from uuid import UUID

import pytest
import typer

from config.settings import load_settings
from config.spec_values import ERROR_CODES
from config.timetable import TIMETABLE
from delivery.alerts import BREAKER_OPEN, DEAD_LETTERS
from ingress import problems
from ingress.cli import cli
from providers.callback.signing import signed_headers
from tasks.app import Entrega

HOME = Path(__file__).parents[3]
PAGES = sorted(
    [*HOME.glob("*.md"), *HOME.glob("docs/*.md"), *HOME.glob("docs/adr/*.md"), *HOME.glob("client/*.md")],
)
TEXTS = {str(each.relative_to(HOME)): each.read_text(encoding="utf-8") for each in PAGES}
# Old decisions and old news may name what is gone.
OF_TODAY = {page: text for page, text in TEXTS.items() if "/adr/" not in page and page != "CHANGELOG.md"}
ROOT = typer.main.get_command(cli)
SOME_ID = "0193e0a0-0000-7000-8000-000000000000"


def blocks(page, *languages):
    """Return the fenced blocks of a page that are in one of these languages; "" for one that names none."""
    found = re.findall(r"^```(\w*)\n(.*?)^```$", TEXTS[page], re.MULTILINE | re.DOTALL)
    return [text for language, text in found if language in languages]


def python_blocks():
    return [(page, n, text) for page in TEXTS for n, text in enumerate(blocks(page, "python"), 1)]


@pytest.mark.parametrize(
    ("page", "text"),
    [pytest.param(page, text, id=f"{page}:{n}") for page, n, text in python_blocks()],
)
def test_every_python_block_is_python(page, text):
    compile(text, page, "exec")


def command_lines():
    """Return every line of a block that calls `entrega`, as words, with an id in the place of each <placeholder>."""
    for page in OF_TODAY:
        for text in blocks(page, "", "bash", "sh", "console"):
            for line in text.replace("\\\n", " ").splitlines():
                found = re.search(r"(?:^|(?<=\s))(?:\.venv/bin/)?entrega (?P<words>[a-z-].*)$", line.split("  #")[0])
                if found and not line.lstrip().startswith(("at ", "#")):
                    yield page, re.sub(r"<[a-z][^<>]*>", SOME_ID, found["words"])


def words_of(line):
    words = shlex.split(re.split(r"\s[<>|]\s", line)[0], comments=True)
    return words[: words.index("&")] if "&" in words else words


def found(command, words):
    """Return the command that these words begin with, and the words behind it."""
    while hasattr(command, "commands"):
        assert words, "a group of commands, and none of them"
        assert words[0] in command.commands, f"no command {words[0]!r}"
        command, words = command.commands[words[0]], words[1:]
    return command, words


LINES = sorted({(page, line.strip()) for page, line in command_lines()})


@pytest.mark.parametrize(("page", "line"), LINES)
def test_every_command_line_of_a_block_can_be_typed(page, line):
    command, words = found(ROOT, words_of(line))

    command.make_context(command.name, words)  # refuses what it does not know


def inline_commands():
    for page, text in OF_TODAY.items():
        plain = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
        for found in re.findall(r"`(?:\.venv/bin/)?entrega ([a-z][^`]*)`", plain):
            yield page, re.sub(r"\s+", " ", found)


@pytest.mark.parametrize(("page", "line"), sorted(set(inline_commands())))
def test_every_command_that_is_named_in_a_sentence_exists(page, line):
    commands, words = [ROOT], re.split(r"[ ,;]+", line)
    while words and all(hasattr(each, "commands") for each in commands) and re.fullmatch(r"[a-z|-]+", words[0]):
        known = commands[0].commands
        assert set(words[0].split("|")) <= known.keys()
        commands, words = [known[each] for each in words[0].split("|")], words[1:]

    options = {option for each in commands for parameter in each.params for option in parameter.opts} | {"--help"}
    assert {each for each in words if each.startswith("--")} <= options


def slug(heading):
    plain = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading).replace("`", "").lower()
    return re.sub(r"[^\w\- ]", "", plain).replace(" ", "-")


def links():
    for page, text in TEXTS.items():
        for target in re.findall(r"\]\((?!https?:|mailto:)([^)\s]+)\)", text):
            yield page, target


@pytest.mark.parametrize(("page", "target"), sorted(set(links())))
def test_every_link_leads_somewhere(page, target):
    path, _, anchor = target.partition("#")
    file = (HOME / page).parent / path if path else HOME / page

    assert file.exists()
    headings = re.findall(r"^#+ (.+)$", file.read_text(encoding="utf-8"), re.MULTILINE) if anchor else []
    assert not anchor or anchor in {slug(each) for each in headings}


def paths():
    for page, text in OF_TODAY.items():
        for found in re.findall(r"`([\w.-]+/[\w./-]+\.(?:py|md|yaml|json|toml|txt))`", text):
            yield page, found


@pytest.mark.parametrize(("page", "path"), sorted(set(paths())))
def test_every_file_of_ours_that_is_named_exists(page, path):
    assert path.startswith(".entrega/") or (HOME / path).exists() or (HOME / page).parent.joinpath(path).exists()


def test_the_block_to_paste_for_operators_only_looks():
    block = TEXTS["README.md"].split("## Operate it", 1)[1].split("```")[1]
    looking = {"doctor", "deliveries", "dead-letters list", "accounts list", "breaker list", "limits", "verify"}

    asked = {line.removeprefix(".venv/bin/entrega ").split(" --")[0] for line in block.strip().splitlines()}

    assert asked <= looking


SECRET = bytes(range(32))


@pytest.mark.parametrize("code", sorted(problems._WORDS))
def test_every_refusal_of_rest_stands_on_its_page(code):
    assert f"`{code}`" in TEXTS["docs/rest.md"]


@pytest.mark.parametrize("code", sorted({*ERROR_CODES, BREAKER_OPEN, DEAD_LETTERS}))
def test_every_error_code_stands_on_its_page(code):
    assert f"| `{code}` |" in TEXTS["docs/errors.md"]


def test_every_queue_stands_on_the_page():
    app = Entrega("test")
    app.settings = load_settings({})
    row = next(each for each in TEXTS["docs/configuration.md"].splitlines() if "task_create_missing_queues" in each)

    assert {queue.name for queue in app.conf.task_queues} == set(re.findall(r"`([a-z]+)`", row))


def test_every_tick_of_beat_stands_on_the_page():
    text = TEXTS["docs/configuration.md"].split("## The timetable", 1)[1].split("\n## ", 1)[0]
    told = dict(re.findall(r"^\| `(\w+)` \| (\d+) s \|", text, re.MULTILINE))

    assert {tick.task: tick.every.total_seconds() for tick in TIMETABLE} == {name: int(s) for name, s in told.items()}


@pytest.fixture
def receiver(monkeypatch):
    """Return the receiver of docs/callbacks.md, run as it is printed, but for the secret and for Flask itself."""
    request = SimpleNamespace(headers={}, get_data=lambda: request.body)
    routes = {}

    class Flask:
        def __init__(self, name):
            self.post = lambda path: lambda view: routes.setdefault(path, view)

    flask = ModuleType("flask")
    flask.Flask, flask.request = Flask, request
    monkeypatch.setitem(sys.modules, "flask", flask)
    (text,) = [each for each in blocks("docs/callbacks.md", "python") if "Flask" in each]
    names = {"__name__": "receiver"}
    exec(text.replace("whsec_...", f"whsec_{b64encode(SECRET).decode()}"), names)  # noqa: S102 - our own page

    def tell(event, secret=SECRET):
        request.body = json.dumps(event).encode()
        request.headers = signed_headers(UUID(SOME_ID), datetime.now(UTC), request.body, [secret])
        return routes["/entrega"]()

    return SimpleNamespace(tell=tell, names=names)


TEST_EVENT = {"type": "endpoint.test", "timestamp": "2026-11-22T12:00:00Z", "data": {"id": SOME_ID, "state": "test"}}
MESSAGE = {"type": "whatsapp.message", "timestamp": "2026-11-22T12:00:00Z", "data": {"from": "+5511999990001"}}


@pytest.mark.parametrize("event", [TEST_EVENT, MESSAGE])
def test_the_sample_receiver_takes_every_event_and_works_once_on_each(receiver, event, capsys):
    answers = [receiver.tell(event), receiver.tell(event)]

    assert answers == [("", 204), ("", 204)]
    assert capsys.readouterr().out.count(event["type"]) == 1


def test_the_sample_receiver_loses_no_event_whose_work_failed(receiver):
    worked = []
    receiver.names["work"] = lambda event: event["no such key"]

    with pytest.raises(KeyError, match="no such key"):
        receiver.tell(TEST_EVENT)
    receiver.names["work"] = worked.append

    assert receiver.tell(TEST_EVENT) == ("", 204)
    assert worked == [TEST_EVENT]


def test_the_sample_receiver_believes_no_other_signature(receiver):
    assert receiver.tell(TEST_EVENT, secret=bytes(32)) == ("", 401)
