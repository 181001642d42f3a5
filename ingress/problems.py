"""The one shape of every refusal, `{"error": {"code", "message", "details": [{"field", "issue"}]}}`, and its words.

Every door raises `Problem`; what the intake and the ledger raise becomes one here. Messages are Portuguese by default,
English by `Accept-Language`, and never hold a value that somebody sent.
"""

import math
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Literal

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException

from delivery.errors import FieldIssue, InvalidCommand, KeyReused, LedgerUnavailable, ProducerRefused
from delivery.issues import field_issue

Language = Literal["pt", "en"]
_LEDGER_AWAY_S = 5

# code: status, Portuguese, English
_WORDS: Mapping[str, tuple[int, str, str]] = {
    "invalid_json": (
        400,
        "o corpo não é um JSON aceitável: {why}",
        "the body is not acceptable JSON: {why}",
    ),
    "invalid_request": (400, "pedido HTTP malformado", "malformed HTTP request"),
    "missing_key": (
        401,
        "falta a chave de API; envie Authorization: Bearer <chave>",
        "the API key is missing; send Authorization: Bearer <key>",
    ),
    "mistyped_key": (
        401,
        "a chave de API está incompleta ou foi digitada com erro; copie-a de novo",
        "the API key is cut or mistyped; copy it again",
    ),
    "unknown_key": (
        401,
        "chave de API desconhecida, revogada ou vencida; peça outra ao operador",
        "the API key is unknown, revoked or expired; ask the operator for another",
    ),
    "unsigned": (
        401,
        "a assinatura falta, está repetida ou não confere com o corpo",
        "the signature is missing, stands twice or does not prove this body",
    ),
    "unwelcome": (403, "recusado", "refused"),
    "missing_scope": (
        403,
        "esta chave de API não tem a permissão {scope}; peça uma que tenha ao operador",
        "this API key lacks the scope {scope}; ask the operator for one that has it",
    ),
    "browser": (
        403,
        "páginas da web não são atendidas aqui; chame de um programa, sem o cabeçalho Origin",
        "web pages are not served here; call from a program, without the header Origin",
    ),
    "producer_frozen": (
        403,
        "este produtor foi congelado por repetir o mesmo conteúdo ou por um operador; fale com o operador",
        "this producer was frozen, for repeating the same content or by an operator; ask the operator",
    ),
    "own_request": (
        403,
        "quem pediu não aprova; peça a outra pessoa, com outra chave",
        "who asked for it does not approve it; ask another person, with another key",
    ),
    "sender_not_allowed": (
        403,
        "este produtor não pode enviar e-mail por este remetente; fale com o operador",
        "this producer may not send mail from this address; ask the operator",
    ),
    "too_many_recipients": (
        403,
        "este produtor não pode escrever a tantas pessoas de uma vez; divida o envio ou fale com o operador",
        "this producer may not write to so many people at once; split the message or ask the operator",
    ),
    "recipient_not_allowed": (
        403,
        "este produtor não pode escrever para um dos destinatários; fale com o operador",
        "this producer may not write to one of the recipients; ask the operator",
    ),
    "suppressed": (
        403,
        "uma das pessoas pediu para ser apagada, e nada é aceito para ela; fale com o operador",
        "one of the people was erased, and nothing is accepted for them; ask the operator",
    ),
    "not_found": (404, "não encontrado", "not found"),
    "method_not_allowed": (405, "método não aceito neste endereço", "this address does not take that method"),
    "too_slow": (
        408,
        "o corpo não chegou por inteiro em {seconds} s; envie de novo",
        "the body did not arrive within {seconds} s; send it again",
    ),
    "key_reused": (
        409,
        "esta chave de idempotência já foi usada com outro corpo; use uma chave nova",
        "this idempotency key was used before with another body; use a new key",
    ),
    "not_cancelable": (
        409,
        "não dá mais para garantir que nada seja enviado: a entrega está em {state}",
        "it can no longer be promised that nothing is sent: the delivery is {state}",
    ),
    "not_a_letter": (
        409,
        "a entrega está em {state}; só as mortas (dead) e as retidas (held) podem ser movidas",
        "the delivery is {state}; only dead and held ones can be moved",
    ),
    "may_exist": (
        409,
        "pode ter chegado, e uma editada seria a segunda; use replay, que confere antes, ou anyway",
        "it may have arrived, and an edited one would be a second; replay looks it up first, or give anyway",
    ),
    "not_awaiting": (
        409,
        "a entrega está em {state} e não aguarda aprovação",
        "the delivery is {state} and does not wait for approval",
    ),
    "other_content": (
        409,
        "o conteúdo não é o que foi visto; abra-o de novo antes de aprovar",
        "the content is not what was seen; open it again before you approve it",
    ),
    "unreadable": (
        409,
        "o conteúdo não pode mais ser aberto: foi apagado, ou falta uma chave mestra",
        "its payload cannot be opened: it was erased, or a master key is missing",
    ),
    "too_large": (413, "corpo grande demais; no máximo {most} bytes", "the body is too large; at most {most} bytes"),
    "wrong_media_type": (
        415,
        "envie {wanted}, em UTF-8 e sem compressão",
        "send {wanted}, in UTF-8 and without compression",
    ),
    "invalid_command": (422, "pedido recusado; nada foi gravado", "refused; nothing was written"),
    "too_many_at_once": (
        429,
        "esta chave já tem {most} pedidos em andamento; espere uma resposta antes do próximo",
        "this key has {most} requests under way; wait for an answer before the next one",
    ),
    "too_many_refusals": (
        429,
        "recusas demais para este endereço; espere, e confira a chave, a assinatura e o caminho",
        "too many refusals for this address; wait, and check the key, the signature and the path",
    ),
    "too_far_behind": (
        429,
        "há entregas demais na fila de {service}; tente de novo mais tarde",
        "too many deliveries are waiting for {service}; try again later",
    ),
    "too_much_waits": (
        429,
        "há entregas demais deste produtor em espera, as agendadas incluídas; tente de novo mais tarde",
        "too many deliveries of this producer wait, scheduled ones included; try again later",
    ),
    "too_many_endpoints": (
        403,
        "este produtor já tem URLs de retorno demais; reutilize uma delas ou fale com o operador",
        "this producer has too many callback URLs; use one of them again or ask the operator",
    ),
    "rate_exceeded": (
        429,
        "o limite por minuto deste produtor foi usado; tente de novo a partir de {at}",
        "this producer's limit for the minute is used up; try again from {at} on",
    ),
    "daily_cap": (
        429,
        "o limite diário deste produtor foi usado; tente de novo a partir de {at}",
        "this producer's limit for the day is used up; try again from {at} on",
    ),
    "new_recipients_cap": (
        429,
        "o limite diário de destinatários novos deste produtor foi usado; tente de novo a partir de {at}",
        "this producer's limit of new recipients for the day is used up; try again from {at} on",
    ),
    "internal_error": (
        500,
        "falha nossa; informe o X-Request-Id ao operador",
        "our own fault; tell the operator the X-Request-Id",
    ),
    "ledger_away": (
        503,
        "o registro está fora do ar e nada foi prometido; tente de novo",
        "the ledger is away and nothing was promised; try again",
    ),
    "secret_unset": (
        503,
        "o segredo deste webhook não está configurado e nada foi gravado; repita mais tarde",
        "the secret of this webhook is not set and nothing was stored; repeat later",
    ),
    "busy": (503, "pedidos demais ao mesmo tempo; tente de novo", "too many requests at once; try again"),
}


class FieldProblem(BaseModel):
    """What is wrong with one field."""

    field: str
    issue: str


class Trouble(BaseModel):
    """Why a request was refused."""

    code: str
    message: str
    details: list[FieldProblem]
    next_step: Literal["wait", "ask_operator"] | None = Field(
        default=None,
        description="What the producer should do, where its policy refused: as in a receipt.",
        exclude_if=lambda value: value is None,
    )


class Refusal(BaseModel):
    """The body of every answer that is not a success."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "error": {
                        "code": "invalid_command",
                        "message": "pedido recusado; nada foi gravado",
                        "details": [{"field": "email", "issue": "e-mail em formato inválido"}],
                    }
                }
            ]
        }
    )

    error: Trouble


class Problem(Exception):
    """A request that a door refuses.

    Args:
        code: A word of the table above; it decides the status.
        details: What is wrong with which field.
        retry_after_s: When to come back; None says nothing.
        next_step: What a producer should do: `wait` or `ask_operator`; None leaves it out.
        fill: Words for the message, a pair where Portuguese and English differ; never what a client sent.
    """

    def __init__(
        self,
        code: str,
        *,
        details: Sequence[FieldIssue] = (),
        retry_after_s: int | None = None,
        next_step: Literal["wait", "ask_operator"] | None = None,
        **fill: object,
    ) -> None:
        super().__init__(code)
        self.code = code
        self.details = tuple(details)
        self.retry_after_s = retry_after_s
        self.next_step = next_step
        self.fill = fill

    @property
    def status(self) -> int:
        """The HTTP status."""
        return _WORDS[self.code][0]

    def body(self, language: Language) -> dict[str, Any]:
        """Return the answer's body. Shape: {"error": {"code", "message", "details": [{"field", "issue"}]}}."""
        english = language == "en"
        fill = {name: each[english] if isinstance(each, tuple) else each for name, each in self.fill.items()}
        _, portuguese, in_english = _WORDS[self.code]
        message = (in_english if english else portuguese).format(**fill)
        details = [{"field": each.field, "issue": each.issue} for each in self.details]
        step = {"next_step": self.next_step} if self.next_step else {}
        return {"error": {"code": self.code, "message": message, "details": details, **step}}

    def headers(self) -> dict[str, str]:
        """Return the headers that go with it."""
        found = {}
        if self.retry_after_s is not None:
            found["Retry-After"] = str(self.retry_after_s)
        if self.status == 401:  # noqa: PLR2004 - HTTP
            found["WWW-Authenticate"] = 'Bearer realm="entrega"'
        if self.code in {"too_slow", "too_large"}:
            found["Connection"] = "close"  # the rest of the body is not waited for
        return found


def install(web: FastAPI) -> None:
    """Let every error of this application leave in the one shape."""
    for kind in (
        Problem, InvalidCommand, KeyReused, ProducerRefused, LedgerUnavailable, RequestValidationError, HTTPException
    ):  # fmt: skip
        web.add_exception_handler(kind, _answer)


async def _answer(request: Request, err: Exception) -> JSONResponse:
    language = language_of(request.headers.get("accept-language", ""))
    return answer(problem_of(err, language), language, headers=getattr(err, "headers", None))


def answer(problem: Problem, language: Language, *, headers: object = None) -> JSONResponse:
    """Return a problem as a response; `headers` of the framework's own error (`Allow`) are kept."""
    kept = dict(headers) if isinstance(headers, Mapping) else {}
    return JSONResponse(problem.body(language), problem.status, headers={**kept, **problem.headers()})


def problem_of(err: Exception, language: Language) -> Problem:
    """Return the problem that an error of the intake, the ledger or the framework stands for."""
    if isinstance(err, Problem):
        return err
    if isinstance(err, InvalidCommand):
        return Problem("invalid_command", details=err.issues)
    if isinstance(err, RequestValidationError):
        return _wrong_parameters(err, language)
    if isinstance(err, HTTPException):
        return Problem(_FRAMEWORK.get(err.status_code, "invalid_request"))
    return _own_fault(err)


def _own_fault(err: Exception) -> Problem:
    if isinstance(err, KeyReused):
        return Problem("key_reused")
    if isinstance(err, LedgerUnavailable):
        return Problem("ledger_away", retry_after_s=_LEDGER_AWAY_S)
    if isinstance(err, ProducerRefused):
        return _refused_by_policy(err)
    return Problem("internal_error")


def _refused_by_policy(err: ProducerRefused) -> Problem:
    if err.retry_at is None:
        return Problem(err.code, next_step="ask_operator")
    wait_s = math.ceil((err.retry_at - datetime.now(UTC)).total_seconds())
    at = err.retry_at.isoformat(timespec="milliseconds")
    return Problem(err.code, next_step="wait", retry_after_s=max(1, wait_s), at=at)


_FRAMEWORK: Mapping[int, str] = {404: "not_found", 405: "method_not_allowed"}


def _wrong_parameters(err: RequestValidationError, language: Language) -> Problem:
    # An id that is none names nothing: the same answer as for an id that nobody has.
    if any(each["loc"][0] == "path" for each in err.errors()):
        return Problem("not_found")
    return Problem(
        "invalid_command", details=[field_issue(each, each["loc"][1:], language) for each in err.errors()[:50]]
    )


_RANGE = re.compile(r"\s*([A-Za-z*]{1,8})[A-Za-z0-9-]{0,20}\s*(?:;\s*q=([01](?:\.\d{0,3})?))?\s*")


def language_of(accept: str) -> Language:
    """Return the language that an Accept-Language header asks for: "en" only where it is wanted before Portuguese."""
    wanted = {"pt": 0.0, "en": 0.0}
    for part in accept[:200].split(","):
        found = _RANGE.fullmatch(part)
        if found and found[1].lower() in wanted:
            wanted[found[1].lower()] = max(wanted[found[1].lower()], float(found[2] or 1))
    return "en" if wanted["en"] > wanted["pt"] else "pt"
