"""Each error that a door's model can raise has words of its own, in one language, about the field itself."""

from datetime import UTC, datetime

import pytest
from pydantic import BaseModel, ValidationError
from pydantic_core._pydantic_core import list_all_errors

from delivery.commands import KINDS, parse_command
from delivery.errors import InvalidCommand
from delivery.issues import field_issue, field_issues
from delivery.wording import issue_text
from ingress.rest_letters import Edit, ReplayMany
from ingress.shapes import WithReason

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
MODELS: list[type[BaseModel]] = [*KINDS.values(), Edit, ReplayMany, WithReason]
LEAD = {"nome": "Ana Teste", "email": "ana.teste@exemplo.com.br", "interesse": "produto_a"}
TO = {"to": "+5511999990001"}

# What a part of a model can find wrong. `value_error` carries a word of ours, and is looked for below.
_LENGTHS = {"too_short", "too_long"}
_BOUNDS = {"greater_than_equal", "less_than_equal", "greater_than", "less_than"}
RAISED = {
    "any": set(),
    "bool": {"bool_type", "bool_parsing"},
    "bytes": {"bytes_type", "bytes_too_long"},
    "datetime": {
        "datetime_type", "datetime_parsing", "datetime_object_invalid", "datetime_from_date_parsing", "timezone_aware",
    },
    "dict": {"dict_type", *_LENGTHS},
    "float": {"float_type", "float_parsing", "finite_number", *_BOUNDS},
    "int": {"int_type", "int_parsing", "int_parsing_size", "int_from_float", *_BOUNDS},
    "list": {"list_type", *_LENGTHS},
    "literal": {"literal_error"},
    "model": {"model_type"},
    "model-fields": {"missing", "extra_forbidden"},
    "nullable": set(),
    "str": {"string_type", "string_unicode", "string_too_short", "string_too_long", "string_pattern_mismatch"},
    "tagged-union": set(),
    "url": {"url_type", "url_parsing", "url_syntax_violation", "url_scheme", "url_too_long"},
    "function-after": set(), "function-before": set(), "function-wrap": set(), "function-plain": set(),
    "with-info": set(), "no-info": set(), "definition-ref": set(), "definitions": {"recursion_loop"},
    "default": set(), "model-field": set(), "json-or-python": {"invalid-json-value"}, "none": set(),
}  # fmt: skip


def parts(schema):
    if isinstance(schema, dict):
        yield from [schema["type"]] if isinstance(schema.get("type"), str) else []
        for each in schema.values():
            yield from parts(each)
    elif isinstance(schema, list | tuple):
        for each in schema:
            yield from parts(each)


FOUND = {each for model in MODELS for each in parts(model.__pydantic_core_schema__)}
RAISABLE = sorted({code for part in FOUND for code in RAISED[part]})
FILL = {"max_length": 3, "min_length": 1, "ge": 1, "le": 2, "gt": 1, "lt": 2, "expected": "'a' or 'b'"}
NONE_OF_ITS_OWN = issue_text("no such word", "pt"), issue_text("no such word", "en")


def error(code, value="x"):
    return {"type": code, "input": value, "ctx": FILL, "msg": "Input should be English"}


@pytest.mark.parametrize("code", RAISABLE)
def test_an_error_that_can_be_raised_has_a_sentence_of_its_own_in_each_language(code):
    said = [field_issue(error(code), ("nome",), language).issue for language in ("pt", "en")]

    assert not {*said} & {*NONE_OF_ITS_OWN}
    assert all("Input" not in each and "{" not in each for each in said)


@pytest.mark.parametrize("code", [each["type"] for each in list_all_errors() if each["type"] != "value_error"])
def test_no_error_at_all_brings_pydantics_own_sentence(code):
    said = field_issue(error(code), ("nome",), "pt").issue

    assert said
    assert not {"Input", "should", "valid ", "or"} & {*said.split()}


def issues(kind, body, language="pt"):
    with pytest.raises(InvalidCommand) as caught:
        parse_command(kind, body, choices={}, now=NOW, language=language)
    return {each.field: each.issue for each in caught.value.issues}


def template(variables):
    return TO | {"template": {"name": "oi", "variables": variables}}


@pytest.mark.parametrize(
    ("kind", "body", "found"),
    [
        ("create_lead", LEAD | {"nome": "a" * 101}, {"nome": "no máximo 100 caracteres"}),
        ("create_lead", LEAD | {"tags": ["a"] * 11}, {"tags": "no máximo 10 itens"}),
        ("create_lead", LEAD | {"tags": ["a", "b" * 101]}, {"tags.1": "no máximo 100 caracteres"}),
        (
            "send_whatsapp",
            template(["a", "", "b\nc"]),
            {
                "template.variables.1": "no mínimo 1 caractere(s)",
                "template.variables.2": "quebras de linha e caracteres de controle não são aceitos",
            },
        ),
        ("send_whatsapp", template({"nome": "a" * 1025}), {"template.variables.nome": "no máximo 1024 caracteres"}),
        ("send_whatsapp", template({"a b": "c"}), {"template.variables.a?b": "formato inválido"}),
        ("send_whatsapp", template(5), {"template.variables": "deve ser uma lista"}),
        (
            "create_lead",
            LEAD | {"options": {"priority": 1, "metadata": {"k": object()}}},
            {
                "options.priority": "use um destes valores: 'high', 'normal' ou 'low'",
                "options.metadata.k": "só valores de JSON",
            },
        ),
    ],
)  # fmt: skip
def test_an_issue_names_the_field_itself_and_counts_what_it_holds(kind, body, found):
    assert issues(kind, body) == found


def test_a_name_from_outside_is_made_harmless_and_short():
    (name,) = issues("create_lead", LEAD | {"options": {"metadata": {"a\nb" + "c" * 200: 1}}})

    assert name.startswith("options.metadata.a?b")
    assert len(name) == 80


def test_every_language_has_the_same_fields():
    with pytest.raises(ValidationError) as caught:
        ReplayMany.model_validate({"filter": {"older_than_s": -1}, "reason": "", "pace": "x", "limit": 1e300})

    pt, en = field_issues(caught.value, "pt"), field_issues(caught.value, "en")
    assert [each.field for each in pt] == [each.field for each in en]
    assert all(a.issue != b.issue for a, b in zip(pt, en, strict=True))
