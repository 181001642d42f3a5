"""Whatever is typed, the command line answers with a sentence and an exit code; never with a traceback."""

import io
import sys

import pytest
import typer

from ingress import cli as program
from ingress.cli import cli
from tests.integration.conftest import lead
from tests.integration.ingress.test_ingress_dead_letters import dead
from tests.integration.ingress.test_rest_submit import LEAD

NASTY = {
    "empty": "",
    "long": "a" * 100_000,
    "control": "\x01\x1b[31m\n\u202e\u200b",
    "half a character": "\udcff",
    "format": "{0} %s [bold]x[/nope] :x: '; DROP TABLE deliveries; --",
    "colons": "crm:../../../../etc/passwd:x",
    "huge": "9" * 5000,
}
SOME_ID = "0193e0a0-0000-7000-8000-000000000000"
# They start processes or speak a protocol of their own, and take no text from the person.
WITHOUT_WORDS = {("up",), ("demo",), ("mcp",), ("doctor",)}


def commands(group, path=()):
    for name, each in group.commands.items():
        if hasattr(each, "commands"):
            yield from commands(each, (*path, name))
        elif (*path, name) not in WITHOUT_WORDS:
            yield (*path, name), each


ALL = dict(commands(typer.main.get_command(cli)))


def fill(parameter, text):
    """Return what is typed for one parameter: the nasty text where a text is wanted, else something that fits."""
    kind = str(parameter.type_descriptor.annotation)
    value = SOME_ID if "UUID" in kind else "1" if "int" in kind or "float" in kind else text
    if parameter.param_type_name == "argument":
        return [value]
    return [parameter.opts[0]] if "bool" in kind else [f"{parameter.opts[0]}={value}"]


def lines(command, text):
    """Yield command lines: all that is required, and in turn each option beside."""
    required = [word for each in command.params if each.required for word in fill(each, text)]
    yield required
    for each in command.params:
        if not each.required and each.name not in {"help", "as_json"} and each.param_type_name == "option":
            yield [*required, *fill(each, text)]


def end(monkeypatch, capsys, *words, stdin=b""):
    monkeypatch.setattr(sys, "argv", ["entrega", *words])
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin), encoding="utf-8"))
    with pytest.raises(SystemExit) as ended:
        program.main()
    out, err = capsys.readouterr()
    return ended.value.code or 0, out + err


@pytest.mark.parametrize("text", NASTY.values(), ids=NASTY)
@pytest.mark.parametrize("path", ALL, ids=" ".join)
def test_a_command_with_a_nasty_word_ends_with_a_sentence(voice, monkeypatch, capsys, tmp_path, path, text):
    monkeypatch.chdir(tmp_path)

    for words in lines(ALL[path], text):
        code, said = end(monkeypatch, capsys, *path, *words)

        assert code in {0, 1, 2, 4}, said
        assert "Traceback" not in said
        assert code == 0 or said.strip()


DEEP = b"[" * 100_000
BODIES = {
    "a name twice": b'{"nome": "Ana", "nome": "Bia"}',
    "NaN": b'{"nome": NaN}',
    "deep": b'{"nome": ' + DEEP + b"]" * 100_000 + b"}",
    "never closed": DEEP,
    "half a pair": b'{"nome": "\\ud800"}',
    "a huge number": b'{"nome": ' + b"9" * 5000 + b"}",
    "1e999": b'{"nome": 1e999}',
    "not UTF-8": b'{"nome": "\xff"}',
    "byte order mark": b"\xef\xbb\xbf{}",
    "a NUL": b'{"nome": "a\\u0000b"}',
    "a list": b"[]",
    "nothing": b"",
    "trailing": b"{} {}",
}


@pytest.fixture(params=BODIES.values(), ids=BODIES)
def body(request):
    return request.param


def refused(code, said, archive):
    assert code in {2, 4}
    assert "Traceback" not in said
    assert said.strip()
    assert archive.search() == []


def test_a_nasty_body_on_standard_input_is_refused(voice, monkeypatch, capsys, archive, body):
    refused(*end(monkeypatch, capsys, "submit", "create_lead", "-", stdin=body), archive)


def test_a_nasty_body_in_a_file_is_refused(voice, monkeypatch, capsys, archive, tmp_path, body):
    file = tmp_path / "lead.json"
    file.write_bytes(body)

    refused(*end(monkeypatch, capsys, "submit", "create_lead", f"@{file}"), archive)


def test_a_nasty_body_as_an_argument_is_refused(voice, monkeypatch, capsys, archive, body):
    typed = body.decode(errors="surrogateescape")

    refused(*end(monkeypatch, capsys, "submit", "create_lead", typed), archive)


def test_a_nasty_value_of_a_field_is_refused(voice, monkeypatch, capsys, archive, body):
    typed = [f"{name}={value}" for name, value in LEAD.items()]
    options = "options=" + body.decode(errors="surrogateescape")

    refused(*end(monkeypatch, capsys, "submit", "create_lead", *typed, options), archive)


def test_a_nasty_correction_of_a_dead_letter_is_refused(voice, monkeypatch, capsys, ledger, body):
    (id_,) = dead(ledger, lead())
    typed = body.decode(errors="surrogateescape")

    for words in (("--body", typed), ("--body", "-"), (f"options={typed}",)):
        code, said = end(monkeypatch, capsys, "dead-letters", "edit", str(id_), "--reason=x", *words, stdin=body)

        assert code in {2, 4}
        assert "Traceback" not in said


def test_a_text_may_begin_like_a_list(voice, monkeypatch, capsys, archive):
    typed = [f"{name}={value}" for name, value in LEAD.items()]

    code, _ = end(monkeypatch, capsys, "submit", "create_lead", *typed, "observacoes=[urgente] ligar", 'tags=["vip"]')

    assert code == 0
    assert len(archive.search()) == 1


def test_wrong_options_are_refused_and_not_passed_over(voice, monkeypatch, capsys, archive):
    typed = [f"{name}={value}" for name, value in LEAD.items()]

    refused(*end(monkeypatch, capsys, "submit", "create_lead", *typed, "options=account", "--key=k"), archive)
    refused(*end(monkeypatch, capsys, "submit", "create_lead", *typed, 'options={"key": "a"}', "--key=k"), archive)


@pytest.mark.parametrize("lines", [b"\xff", b"=", b"SMTP_HOST", b"A=b\x00", b"SMTP_HOST=a\nSMTP_HOST=b"])
def test_nasty_values_of_an_account_are_refused(voice, monkeypatch, capsys, lines):
    code, said = end(monkeypatch, capsys, "accounts", "add", "email:reserva", stdin=lines)

    assert code in {2, 4}
    assert "Traceback" not in said
