"""Makes the OpenAPI document say what the doors do: bodies parsed by hand, every refusal, examples in Portuguese."""

from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from config.policy import Spec
from delivery.commands import KINDS
from ingress.problems import Refusal

_REF = "#/components/schemas/{model}"

EXAMPLES: Mapping[str, Mapping[str, Any]] = {
    "create_lead": {
        "nome": "Ana Teste",
        "email": "ana.teste@exemplo.com.br",
        "telefone": "+5511999990001",
        "interesse": "produto_a",
        "observacoes": "Pediu uma demonstração.",
        "options": {"key": "conversa-4711"},
    },
    "send_whatsapp": {"to": "+5511999990001", "text": "Olá, Ana! Recebemos o seu contato."},
    "send_email": {
        "to": ["ana.teste@exemplo.com.br"],
        "subject": "Recebemos o seu contato",
        "text": "Olá, Ana! Em breve falaremos com você.",
    },
}

_SAID: Mapping[int, str] = {
    400: "The body is not acceptable JSON",
    401: "The API key is missing, mistyped, unknown, revoked or expired",
    403: "The API key lacks a scope, or the producer's policy does not permit this",
    404: "There is none, or it is another producer's",
    408: "The body came too slowly",
    409: "The key stands for another body, or the delivery is not in a state that permits this",
    413: "The body is too large",
    415: "Another media type, charset or coding than this route takes",
    422: "A field is missing, wrong, too long or unknown; nothing was written",
    429: "Too many deliveries are waiting, or the producer used up its share; come back after Retry-After",
    503: "The ledger is away, or too much at once; nothing was promised; come back after Retry-After",
}
_ALWAYS = (401, 403, 422, 503)
_BODY = (400, 408, 413, 415)


def refusals(*codes: int, body: bool = False) -> dict[int | str, dict[str, Any]]:
    """Return the refusals of a route for its documentation: those of every route, and these."""
    wanted = sorted({*_ALWAYS, *codes, *(_BODY if body else ())})
    return {code: {"model": Refusal, "description": _SAID[code]} for code in wanted}


def command_body(kind: str) -> dict[str, Any]:
    """Return what documents the body of one command."""
    return _body({"application/json": (_ref(KINDS[kind].__name__), EXAMPLES[kind])})


def any_command_body() -> dict[str, Any]:
    """Return what documents a body that names its kind."""
    return _body({"application/json": (_item(), {"kind": "create_lead", **EXAMPLES["create_lead"]})})


def model_body(model: type[BaseModel]) -> dict[str, Any]:
    """Return what documents a body that is one of our models."""
    schema = model.model_json_schema(ref_template=_REF)
    schema.pop("$defs", None)  # `describe` lists them
    examples = schema.pop("examples", [{}])
    return _body({"application/json": (schema, examples[0])})


def bulk_body(most: int) -> dict[str, Any]:
    """Return what documents the bulk body, as JSON and as NDJSON."""
    items = {"type": "array", "items": _item(), "minItems": 1, "maxItems": most}
    example = [{"kind": kind, **EXAMPLES[kind]} for kind in ("create_lead", "send_whatsapp")]
    json_body = {"type": "object", "properties": {"items": items}, "required": ["items"], "additionalProperties": False}
    lines = {"type": "string", "description": "One command in JSON on each line."}
    return _body(
        {
            "application/json": (json_body, {"items": example}),
            "application/x-ndjson": (lines, '{"kind": "send_whatsapp", "to": "+5511999990001", "text": "Olá, Ana!"}\n'),
        }
    )


def describe(web: FastAPI, specs: Mapping[str, Spec], models: Sequence[type[BaseModel]]) -> None:
    """Give the application its document, made at the first question for it.

    Args:
        models: Those that bodies refer to, commands apart.
        specs: They say which values a field takes, e.g. `interesse`.
    """

    def document() -> dict[str, Any]:
        if not web.openapi_schema:
            web.openapi_schema = _document(web, specs, models)
        return web.openapi_schema

    web.openapi = document  # type: ignore[method-assign]  # FastAPI's documented way


def _document(web: FastAPI, specs: Mapping[str, Spec], models: Sequence[type[BaseModel]]) -> dict[str, Any]:
    made = get_openapi(
        title="Entrega",
        version=web.version,
        description="Hands a lead, a WhatsApp message or an e-mail to the outside API, once in effect.",
        routes=web.routes,
    )
    schemas = made.setdefault("components", {}).setdefault("schemas", {})
    parsed = [*KINDS.values(), *models]
    _, commands = models_json_schema([(each, "validation") for each in parsed], ref_template=_REF)
    schemas |= commands["$defs"]
    for spec in specs.values():
        for kind, operation in spec.operations.items():
            for field, choices in operation.choices().items():
                known = schemas[KINDS[kind].__name__]["properties"]
                if field in known:
                    known[field]["enum"] = list(choices)
    # FastAPI's own shapes for errors, which never leave this application.
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    return made


def _item() -> dict[str, Any]:
    kind = {"type": "object", "properties": {"kind": {"enum": list(KINDS)}}, "required": ["kind"]}
    return {**kind, "description": "`kind`, and beside it the fields of that command."}


def _ref(name: str) -> dict[str, Any]:
    return {"$ref": _REF.format(model=name)}


def _body(types: Mapping[str, tuple[Mapping[str, Any], Any]]) -> dict[str, Any]:
    content = {name: {"schema": schema, "example": example} for name, (schema, example) in types.items()}
    return {"requestBody": {"required": True, "content": content}}
