"""The sentences people read, in Portuguese and English: field issues and receipts. No logic but the choice."""

from collections.abc import Mapping
from typing import Any

_WHOLE_NUMBER = ("deve ser um número inteiro", "must be a whole number")
_UUID = (
    "deve ser um id, ex.: 01a20146-c68f-77f3-a497-12636e996a58",
    "must be an id, e.g. 01a20146-c68f-77f3-a497-12636e996a58",
)
_INSTANT = (
    "informe data, hora e fuso, ex.: 2027-01-05T12:00:00Z",
    "give a date, a time and an offset, e.g. 2027-01-05T12:00:00Z",
)
_URL = (
    "informe uma URL completa, ex.: https://exemplo.com.br/a.png",
    "give a full URL, e.g. https://example.com/a.png",
)
_ISSUES: Mapping[str, tuple[str, str]] = {
    "missing": ("campo obrigatório", "field required"),
    "extra_forbidden": ("campo desconhecido", "unknown field"),
    "email": ("e-mail em formato inválido", "not a valid e-mail address"),
    "email_letters": (
        "o domínio tem letras que se confundem com outras; só letras latinas, com ou sem acento",
        "the domain has letters that may be taken for others; Latin letters only, with or without accents",
    ),
    "phone": (
        "telefone inválido; use o formato internacional, ex.: +5511999999999",
        "not a valid phone number; use the international form, e.g. +5511999999999",
    ),
    "one_line": (
        "quebras de linha e caracteres de controle não são aceitos",
        "line breaks and control characters are not allowed",
    ),
    "choice": ("use um destes valores: {rest}", "use one of: {rest}"),
    "literal_error": ("use um destes valores: {expected}", "use one of: {expected}"),
    "exactly_one": ("informe exatamente um destes campos: {rest}", "give exactly one of: {rest}"),
    "at_least_one": ("informe ao menos um destes campos: {rest}", "give at least one of: {rest}"),
    "string_too_long": ("no máximo {max_length} caracteres", "at most {max_length} characters"),
    "string_too_short": ("no mínimo {min_length} caractere(s)", "at least {min_length} character(s)"),
    "bytes_too_long": ("no máximo {max_length} bytes", "at most {max_length} bytes"),
    "too_long": ("no máximo {max_length} itens", "at most {max_length} items"),
    "too_short": ("no mínimo {min_length} item(ns)", "at least {min_length} item(s)"),
    "string_type": ("deve ser um texto", "must be text"),
    "string_unicode": ("contém um caractere Unicode incompleto", "contains an incomplete Unicode character"),
    "bytes_type": ("deve ser um texto", "must be text"),
    "int_type": _WHOLE_NUMBER,
    "int_parsing": _WHOLE_NUMBER,
    "int_parsing_size": _WHOLE_NUMBER,
    "int_from_float": _WHOLE_NUMBER,
    "float_type": ("deve ser um número", "must be a number"),
    "float_parsing": ("deve ser um número", "must be a number"),
    "finite_number": ("deve ser um número finito", "must be a finite number"),
    "greater_than_equal": ("no mínimo {ge}", "at least {ge}"),
    "less_than_equal": ("no máximo {le}", "at most {le}"),
    "greater_than": ("mais que {gt}", "more than {gt}"),
    "less_than": ("menos que {lt}", "less than {lt}"),
    "uuid_type": _UUID,
    "uuid_parsing": _UUID,
    "datetime_type": _INSTANT,
    "datetime_parsing": _INSTANT,
    "datetime_from_date_parsing": _INSTANT,
    "datetime_object_invalid": _INSTANT,
    "timezone_aware": _INSTANT,
    "url_type": _URL,
    "url_parsing": _URL,
    "url_syntax_violation": _URL,
    "url_scheme": ("comece com http:// ou https://", "begin with http:// or https://"),
    "url_long": ("no máximo {rest} caracteres", "at most {rest} characters"),
    "url_too_long": ("no máximo {max_length} caracteres", "at most {max_length} characters"),
    "invalid-json-value": ("só valores de JSON", "JSON values only"),
    "recursion_loop": ("não pode conter a si mesmo", "cannot contain itself"),
    "invalid": ("valor inválido", "invalid value"),
    "list_type": ("deve ser uma lista", "must be a list"),
    "dict_type": ("deve ser um objeto", "must be an object"),
    "model_type": ("deve ser um objeto", "must be an object"),
    "string_pattern_mismatch": ("formato inválido", "wrong format"),
    "header_names": ("só cabeçalhos X-... e Feedback-ID", "only X-... headers and Feedback-ID"),
    "mail_header": ("cabeçalho não aceito; aceitos: {rest}", "header not accepted; accepted: {rest}"),
    "mail_sender": (
        "remetente não aceito; use o endereço da conta ou outro do mesmo domínio",
        "sender not accepted; use the account's address or another one of its domain",
    ),
    "mail_file": (
        "tipo de arquivo não aceito; extensões aceitas: {rest}",
        "file not accepted; accepted extensions: {rest}",
    ),
    "mail_file_type": (
        "o content_type não combina com a extensão; aceitos: {rest}",
        "the content_type does not fit the extension; accepted: {rest}",
    ),
    "cid": ("cada arquivo embutido precisa de um cid", "each inline file needs a cid"),
    "expires_before_send": ("expires_at deve vir depois de send_at", "expires_at must come after send_at"),
    "callback_url": (
        "informe uma URL completa, ex.: https://exemplo.com.br/retorno; só ASCII, sem usuário, senha ou fragmento",
        "give a full URL, e.g. https://example.com/callback; plain ASCII, without user, password or fragment",
    ),
    "callback_https": ("use https://", "use https://"),
    "callback_long": ("no máximo {rest} caracteres", "at most {rest} characters"),
    "callback_port": ("portas aceitas: {rest}", "accepted ports: {rest}"),
    "callback_private": (
        "o endereço não é público; use um nome ou endereço alcançável pela internet",
        "the address is not public; use a name or an address of the internet",
    ),
    "nested_fallback": ("um plano B não pode ter outro", "a fallback cannot have a fallback of its own"),
    "sim_repeat": ("já foi pedido; nada novo seria enviado", "it was asked for before; nothing new would be sent"),
    "sim_conflict": ("a chave já foi usada com outro corpo", "the key was used before with another body"),
    "sim_opted_out": (
        "a pessoa pediu para não receber marketing; não seria enviado",
        "the person asked for no marketing; it would not be sent",
    ),
    "sim_window": (
        "não consta mensagem recente da pessoa; fora da janela o provedor só aceita templates",
        "no recent message of the person is known; outside the window the provider takes templates only",
    ),
    "unknown_parameter": ("parâmetro desconhecido", "unknown parameter"),
    "given_twice": ("só pode ser informado uma vez", "may be given only once"),
    "two_keys": ("difere do cabeçalho Idempotency-Key", "differs from the header Idempotency-Key"),
    "bool_parsing": ("deve ser true ou false", "must be true or false"),
    "bool_type": ("deve ser true ou false", "must be true or false"),
    "dry_run": ("aqui não se simula; use POST /v1/simulate", "nothing is simulated here; use POST /v1/simulate"),
    "control": (
        "caracteres de controle não são aceitos, exceto quebra de linha e tabulação",
        "control characters are not allowed, except line breaks and tabs",
    ),
    "base64": (
        'envie o conteúdo em base64 comum (RFC 4648), sem "data:" e sem o alfabeto de URL',
        'send plain base64 (RFC 4648), without "data:" and not in the URL alphabet',
    ),
    "file_size": ("no máximo {rest} bytes", "at most {rest} bytes"),
    "spaces": ("no máximo quatro espaços seguidos", "at most four spaces in a row"),
    "no_caption": (
        "este tipo não leva legenda; envie o texto à parte",
        "this type has no caption; send the text on its own",
    ),
    "sends_nothing": (
        "status marca outra mensagem como lida e nada envia; retire",
        "status marks another message as read and sends nothing; leave it out",
    ),
    "unwritable": ("o provedor não aceita este conteúdo", "the provider does not take this content"),
    "instant": ("fora dos anos 2000 a 2099", "outside the years 2000 to 2099"),
    "in_the_past": ("já passou", "lies in the past"),
    "too_far": ("no máximo 366 dias à frente", "at most 366 days ahead"),
    "account": (
        "conta desconhecida; pergunte ao operador quais existem (entrega accounts list)",
        "unknown account; ask the operator which there are (entrega accounts list)",
    ),
    "body": ("corpo grande demais; no máximo {rest} bytes", "the body is too large; at most {rest} bytes"),
}


def issue_text(code: str, language: str, context: Mapping[str, Any] | None = None) -> str:
    """Return one field issue as a sentence; one that has none of its own is "invalid value".

    Args:
        code: A word of the table; what follows a colon fills `{rest}`.
        language: "pt" or "en".
        context: Numbers that fill the sentence, e.g. {"max_length": 100}.
    """
    word, _, rest = code.partition(":")
    pair = _ISSUES.get(word, _ISSUES["invalid"])
    fill = {"rest": rest, **(context or {})}
    if language != "en" and "expected" in fill:
        fill["expected"] = str(fill["expected"]).replace(" or ", " ou ")  # pydantic's own list
    return pair[language == "en"].format(**fill)


_RECEIPTS: Mapping[str, tuple[str, str, str]] = {
    "attempting": (
        "wait",
        "Seu pedido está sendo processado agora.",
        "Your request is being processed now.",
    ),
    "uncertain": (
        "do_not_resend",
        "Seu pedido foi enviado e estamos confirmando se chegou. Não é preciso enviar de novo.",
        "Your request was sent and we are confirming that it arrived. There is no need to send it again.",
    ),
    "succeeded": (
        "none",
        "Seu pedido foi concluído.",
        "Your request was carried out.",
    ),
    "held": (
        "ask_operator",
        "Seu pedido está registrado e aguarda a nossa equipe.",
        "Your request is recorded and waits for our team.",
    ),
    "dead": (
        "ask_operator",
        "Não conseguimos concluir o seu pedido; ele está na lista da nossa equipe.",
        "We could not carry out your request; it is on our team's list.",
    ),
    "canceled": ("none", "O pedido foi cancelado.", "The request was canceled."),
    "expired": (
        "ask_operator",
        "O prazo do pedido terminou antes da entrega.",
        "The request expired before it could be delivered.",
    ),
}


def receipt_text(state: str, language: str, promise: str) -> tuple[str, str]:
    """Return the sentence for a person and the producer's next step.

    Args:
        state: A delivery state.
        language: "pt" or "en".
        promise: The integration's own sentence for what is accepted and not yet done.
    """
    if state in ("ready", "waiting"):
        return promise, "wait"
    next_step, portuguese, english = _RECEIPTS[state]
    return (english if language == "en" else portuguese), next_step
