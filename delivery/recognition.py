"""Recognises people and secrets in a text by their form, and masks them.

Owns the patterns; `delivery.redaction` is the door that everybody else uses. Every rule runs in linear time: each run
of characters is looked at from its start only, and what repeats is possessive or bounded.

Source: the user's API specification, section 8.1 (the masked shapes), read 2026-11-22.
"""

import base64
import re
from collections.abc import Callable, Mapping

_LONGEST_TEXT = 32_768
# The cut may fall into an address or a number; what is left of it is no longer recognisable, so drop the edge too.
_EDGE = 320

HIDDEN = "***"
_SHORTEST_SHOWN_SECRET = 20
_SHOWN_OF_SCOPED_ID = 3

# -- secrets ----------------------------------------------------------------------------------------------------------

_HEADER = re.compile(r"(?i)((?:proxy-)?authorization|(?:set-)?cookie)([\"']?\s{0,3}[:=]\s{0,3}[\"']?)([^\"'\r\n]++)")
_USERINFO = re.compile(r"(?<=://)[^\s/?#\"'<>]*@")
_SCHEME = re.compile(
    r"(?i)\b(bearer|basic)(\s{1,3})(?!tokens?\b|auth\w*+\b|realm\b|error\b|scheme\b)([A-Za-z0-9._~+/=:-]{6,}+)"
)
_KNOWN_TOKEN = re.compile(
    r"eyJ[\w-]{5,}+(?:\.[\w-]*+)*+"  # JSON web token
    r"|(?<![A-Za-z0-9])(?:entrega_[a-z2-7]{24,}+"  # our own
    r"|EAA[A-Za-z0-9]{10,}+"  # Meta
    r"|A(?:KIA|SIA|IDA|ROA)[A-Z0-9]{16}"  # AWS
    r"|AIza[\w-]{30,}+|ya29\.[\w-]{10,}+|GOCSPX-[\w-]{10,}+"  # Google
    r"|xox[a-z]-[A-Za-z0-9-]{8,}+|xapp-[A-Za-z0-9-]{8,}+"  # Slack
    r"|SG\.[\w-]{10,}+\.[\w-]{10,}+"  # SendGrid
    r"|pat-[A-Za-z0-9-]{8,}+"  # HubSpot
    r"|whsec_[A-Za-z0-9+/=_-]{6,}+"  # Standard Webhooks
    r"|[rsp]k[_-][A-Za-z0-9_-]{8,}+"
    r"|gh[opsu]_[A-Za-z0-9]{16,}+|github_pat_\w{16,}+"
    # A WhatsApp message id is base64 and holds the recipient's number in clear.
    r"|wamid\.[A-Za-z0-9+/=_-]{6,}+)"
)
_MESSAGE_ID = re.compile(r"wamid\.[A-Za-z0-9+/=_-]{6}")
_ENCODED = re.compile(r"[A-Za-z0-9+/_-]{14,512}")
_PERSON_IN_BYTES = re.compile(rb"(?<![\d/])[1-9]\d{9,14}(?!\d)|[\w.+-]{1,64}@[\w-]+\.[A-Za-z]")
_PRIVATE_KEY = re.compile(r"-----BEGIN [A-Z ]{0,40}PRIVATE KEY-----(?:[^-]|-(?!----))*+(?:-----END [A-Z ]{0,60}-----)?")
_SECRETIVE = r"token|secret|passw(?:or)?d|senha|(?:api|access)[_-]?key|appsecret_proof|code_verifier|assertion"
_QUERY_KEY = re.compile(rf"(?i)((?:{_SECRETIVE}|(?<![A-Za-z])(?:sig|signature|pwd))=)(?!\*\*\*)([^\s\"'&,;)}}]++)")
_QUOTED = r"(\\{0,3}(?:\"(?:[^\"\\\r\n]|\\.)*+\"?|'(?:[^'\\\r\n]|\\.)*+'?))"
_QUOTED_KEY = re.compile(rf"(?i)((?:{_SECRETIVE})\\{{0,3}}[\"']?\s{{0,3}}[:=]\s{{0,3}}){_QUOTED}")
# A body quoted inside a text: JSON, a mapping's or a model's repr.
_PRIVATE_WORD = (
    "nome|nome_completo|full_name|first_name|last_name|observacoes|cpf|cnpj|body|text|caption|html|subject|mensagem"
)
_QUOTED_PRIVATE = re.compile(rf"(?i)((?<![A-Za-z_])(?:{_PRIVATE_WORD})\\{{0,3}}[\"']?\s{{0,3}}[:=]\s{{0,3}}){_QUOTED}")
_SPOKEN_KEY = re.compile(r"(?i)((?:secret|passw(?:or)?d|senha|api[_-]?key)\s?:\s{0,3})(?![\"'*])([^\s\"',;]++)")

# -- addresses --------------------------------------------------------------------------------------------------------

# A whole run of characters an address may hold: looked at once, from its start, so that no input is slow.
_ADDRESS_RUN = re.compile(r"(?<![\w.!#$%&'*+/=?^`{|}~@-])[\w.!#$%&'*+/=?^`{|}~@-]++")
_QUOTED_LOCAL = re.compile(r'"(?:(?:\\.|[^"\\\r\n]){1,64}+|[^"\r\n]{1,64}+)"@')
_DOMAIN = re.compile(r"[\w.-]*")
_EDGE_OF_LOCAL = re.compile(r"^[^\w]*")
_NODE = re.compile(r"(?:celery|worker|beat|entrega)[\w.+%-]*")

# -- numbers ----------------------------------------------------------------------------------------------------------

_DDD = r"[1-9][1-9]"
_DASH = r"[-.\u2010-\u2015]"
_GAP = r"[ ().\u00a0\u2010-\u2015-]"
_NUMBER = re.compile(
    r"(?P<keep>(?<![0-9A-Fa-f])[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}(?![0-9A-Fa-f]))"
    r"|(?P<hash>(?<![0-9A-Za-z])(?=[0-9]*+[a-f])[0-9a-f]{16,128}+(?![0-9A-Za-z]))"
    r"|(?P<bsuid>(?<![\w.])[A-Z]{2}\.(?=[A-Za-z]*+[0-9])[A-Za-z0-9]{8,128}+)"
    rf"|(?P<phone>(?:\+|%2[Bb])[1-9](?:\d{{7,}}+|(?:{_GAP}{{0,3}}\d){{6,14}}(?!\d)|(?:{_GAP}{{0,3}}\d){{6,14}}\d*+))"
    r"|(?P<cpf>\d{3}\.\d{3}\.\d{3}[-/. ]\d{2}|(?<!\d)\d{3} \d{3} \d{3}[ -]\d{2}(?!\d)|(?<![\d-])\d{9}-\d{2}(?![\d-]))"
    r"|(?P<cnpj>[0-9A-Za-z]{2}\.[0-9A-Za-z]{3}\.[0-9A-Za-z]{3}/[0-9A-Za-z]{4}-\d{2}|(?<!\d)\d{8}/\d{4}-\d{2})"
    rf"|(?P<written>(?<![\d.])(?:55[ -]{{0,2}}|0(?:xx|\d\d)?[ -]?)?"
    rf"(?:\(0?{_DDD}\)[ -]{{0,2}}(?:9[ .]?)?\d{{4}}(?:{_DASH}| )?\d{{4}}"
    rf"|{_DDD}[ -]{{1,2}}(?:9[ .]?\d{{4}}(?:{_DASH}| )?\d{{4}}|[2-5]\d{{3}}{_DASH}?\d{{4}}))(?!\d)"
    rf"|(?<![\w.-]){_DDD}?9\d{{4}}{_DASH}\d{{4}}(?![\w-]))"
    r"|(?P<firm>(?<![0-9A-Za-z])(?=[0-9]*+[A-Z])[0-9A-Z]{12}\d{2}(?![0-9A-Za-z]))"
    r"|(?P<bare>(?<!\d)\d{10,14}(?!\d))"
)
_PLUS_NUMBER = re.compile(r"(?:\+|%2[Bb])[1-9]\d{7,14}")
_SCOPED_ID = re.compile(r"[A-Z]{2}\.[A-Za-z0-9]{1,128}")
_ONE_NUMBER = re.compile(rf"\+?(?:{_GAP}?\d){{8,20}}")
_CARD = re.compile(r"(?<![\w.])(?<!\d[ -])\d(?:[ -]?\d){12,18}(?![ -]?\d|\w)")
# Issuer prefixes: Visa, Mastercard, Amex, Diners, Discover, JCB, Elo, Hipercard.
_ISSUER = re.compile(r"4|5[0-5]|2[2-7]|3[0478]|35|6[0-5]")
_MOBILE_INSIDE = re.compile(rf"55{_DDD}9\d{{8}}")
_MOBILE = re.compile(rf"{_DDD}9\d{{8}}")
# 17... and 18... would be the seconds of a Unix clock in these years: such a bare number is read as an instant.
_FIXED_LINE = re.compile(rf"(?!1[78]){_DDD}[2-5]\d{{7}}")
_BRAZILIAN = re.compile(rf"55{_DDD}(?:9\d{{8}}|[2-9]\d{{7}})")
_TRUNK = re.compile(rf"0(?:\d\d)?({_DDD}9\d{{8}})")


def _any_of(words: str) -> re.Pattern[str]:
    return re.compile("|".join(re.escape(each) for each in words.split()))


# The full search costs tens of microseconds and most logged words hold nothing: these signs tell them apart cheaply.
_SECRET_SIGN = _any_of(
    "token secret passw senha api_key api-key apikey access_key access-key accesskey appsecret_proof code_verifier "
    "assertion sig= signature= pwd= authorization cookie :// bearer basic entrega_ -----begin akia asia aida aroa aiza "
    "ya29. gocspx- xox xapp- sg. eyj eaa pat- whsec_ rk_ sk_ pk_ rk- sk- pk- gh wamid. nome name obs cpf cnpj body "
    "text caption html subject mensagem"
)
_PLAIN = re.compile(r"(?![rsp]k_|whsec_|gh)[a-z_]{1,32}|[A-Z]{1,8}|\d{1,7}|[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_SEPARATOR = re.compile(r"[=:\s]")
_NUMBER_SIGN = re.compile(r"(?:\d\D{0,3}){7}\d|[0-9A-Za-z]{4}-?\d\d(?!\d)|[A-Z]{2}\.[A-Za-z0-9]{8}")


def mask_text(text: str) -> str:
    """Return the text with every recognisable address, number and secret masked.

    Shape: "j***@empresa.com", "+55119999****", "eyJ***...***xyz", "***.***.***-**".

    Args:
        text: Anything; beyond 32,768 characters the rest is dropped and its length is said instead.
    """
    if _PLAIN.fullmatch(text):
        return text
    window = text[:_LONGEST_TEXT]
    masked = _mask_numbers(_mask_addresses(_mask_secrets(window)))
    return masked if len(window) == len(text) else _with_the_rest_withheld(masked[:-_EDGE], len(text))


def names_a_person(provider_id: str) -> bool:
    """Tell whether a provider's id holds an address or a number, in clear or in base64, as WhatsApp's ids do.

    A bare number is an id: most CRMs count their leads.
    """
    if _MESSAGE_ID.search(provider_id) or _mask_addresses(provider_id) != provider_id:
        return True
    return bool(_PLUS_NUMBER.search(provider_id)) or any(map(_holds_a_person, _ENCODED.findall(provider_id)))


def _holds_a_person(encoded: str) -> bool:
    # What stands before the base64 may shift it by up to three characters.
    standard = encoded.replace("-", "+").replace("_", "/")
    texts = (standard[start : len(standard) - (len(standard) - start) % 4] for start in range(4))
    return any(_PERSON_IN_BYTES.search(base64.b64decode(each)) for each in texts)


def mask_recipient(text: str) -> str:
    """Return one e-mail address, phone number or business-scoped user id in its masked shape.

    Shape: "j***@empresa.com", "+55119999****", "BR.150***"; "***" for anything else, names around an address included.
    """
    stripped = text.strip()[:_EDGE]
    if _SCOPED_ID.fullmatch(stripped):
        return _mask_scoped_id(stripped)
    if "@" in stripped:
        address = next((each for each in _ADDRESS_RUN.findall(stripped) if "@" in each), "")
        return _mask_run(address) or HIDDEN
    if _ONE_NUMBER.fullmatch(stripped):
        return _mask_digits(_digits(stripped))
    return HIDDEN


def _with_the_rest_withheld(text: str, length: int) -> str:
    return f"{text}... [text of {length} characters, the rest withheld]"


def mask_secret(secret: str) -> str:
    """Return the ends of a long secret, nothing of a short one. Shape: "eyJ***...***xyz"."""
    if len(secret) < _SHORTEST_SHOWN_SECRET:
        return HIDDEN
    return f"{secret[:3]}***...***{secret[-3:]}"


def _mask_secrets(text: str) -> str:
    # Every other rule needs a separator or a space after the word that gives the secret away.
    if not _SEPARATOR.search(text):
        return _KNOWN_TOKEN.sub(lambda m: mask_secret(m[0]), text)
    if not _SECRET_SIGN.search(text.lower()):
        return text
    text = _PRIVATE_KEY.sub(HIDDEN, text)
    text = _HEADER.sub(lambda m: m[1] + m[2] + HIDDEN, text)
    text = _USERINFO.sub("***@", text)
    text = _SCHEME.sub(_mask_scheme, text)
    text = _KNOWN_TOKEN.sub(lambda m: mask_secret(m[0]), text)
    text = _QUERY_KEY.sub(lambda m: m[1] + _kept_or_masked(m[2]), text)
    text = _QUOTED_KEY.sub(lambda m: m[1] + _mask_quoted(m[2]), text)
    text = _QUOTED_PRIVATE.sub(lambda m: m[1] + _hide_quoted(m[2]), text)
    return _SPOKEN_KEY.sub(lambda m: m[1] + _kept_or_masked(m[2]), text)


def _mask_scheme(found: re.Match[str]) -> str:
    # "Basic information" is prose: real credentials are not one lower-case word.
    if found[1].lower() == "basic" and found[3].isalpha() and found[3].islower():
        return found[0]
    return found[1] + found[2] + mask_secret(found[3])


def _mask_quoted(quoted: str) -> str:
    quote = quoted.lstrip("\\")[:1]
    inner = quoted.lstrip("\\").strip(quote)
    return f"{quote}{inner if inner.startswith(HIDDEN) else _kept_or_masked(inner)}{quote}"


def _hide_quoted(quoted: str) -> str:
    quote = quoted.lstrip("\\")[:1]
    return f"{quote}{HIDDEN}{quote}"


def _kept_or_masked(secret: str) -> str:
    return secret if "***...***" in secret else mask_secret(secret)


def _mask_addresses(text: str) -> str:
    text = text.replace("\uff20", "@").replace("\ufe6b", "@")  # as wide and as small: Unicode's other two
    if "@" not in text and "%40" not in text:
        return text
    text = _QUOTED_LOCAL.sub(f"{HIDDEN}@", text)
    return _ADDRESS_RUN.sub(lambda m: _mask_run(m[0]) or m[0], text)


def _mask_run(run: str) -> str:
    """Mask the address in a run of address characters; empty when there is none."""
    local, at, rest = run.replace("%40", "@").rpartition("@")
    edge = _EDGE_OF_LOCAL.match(local)
    opening = edge[0] if edge else ""
    inner = local[len(opening) :]
    domain = _DOMAIN.match(rest)
    if not at or not inner or domain is None or _is_technical(inner, domain[0]):
        return ""
    return f"{_without_at(opening)}{inner[0]}***@{rest}"


def _without_at(opening: str) -> str:
    return opening.replace("@", "")


def _is_technical(local: str, domain: str) -> bool:
    """Tell a worker's node name or a Message-ID made of our id from a person's address."""
    return bool(_NODE.fullmatch(local) and "." not in domain) or is_uuid(local)


def is_uuid(text: str) -> bool:
    """Tell whether the whole text is an id of ours in its usual form."""
    return bool(re.fullmatch(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", text))


def _mask_numbers(text: str) -> str:
    if not _NUMBER_SIGN.search(text):
        return text
    # Phones before cards: one in ten 13-digit phone numbers passes the card check.
    return _CARD.sub(_mask_card, _NUMBER.sub(_mask_number, text))


def _mask_number(found: re.Match[str]) -> str:
    return _MASKS[found.lastgroup or "keep"](found)


def _mask_written(phone: str) -> str:
    digits = _digits(phone.removeprefix("%2B").removeprefix("%2b"))
    if phone.startswith(("+", "%2")):
        return _mask_digits(digits)
    if trunk := _TRUNK.fullmatch(digits):
        return _mask_digits("55" + trunk[1])
    return _mask_digits(digits if _BRAZILIAN.fullmatch(digits) else "55" + digits.lstrip("0"))


def _mask_bare(found: re.Match[str]) -> str:
    digits = found[0]
    if _BRAZILIAN.fullmatch(digits):
        return _mask_digits(digits)
    if trunk := _TRUNK.fullmatch(digits):
        return _mask_digits("55" + trunk[1])
    return _MASKS_BY_LENGTH.get(len(digits), _keep)(found)


def _keep(found: re.Match[str]) -> str:
    return found[0]


def _mask_ten(found: re.Match[str]) -> str:
    is_phone = _FIXED_LINE.fullmatch(found[0]) and not _is_part_of_a_name(found)
    return _mask_digits("55" + found[0]) if is_phone else found[0]


def _mask_firm(found: re.Match[str]) -> str:
    return "*" * len(found[0]) if _is_cnpj(found[0]) else found[0]


def _mask_hash(found: re.Match[str]) -> str:
    return HIDDEN if _MOBILE_INSIDE.search(found[0]) else found[0]


def _mask_eleven(found: re.Match[str]) -> str:
    # One in a hundred mobile numbers passes the CPF check, so eleven bare digits are hidden either way.
    digits = found[0]
    if _MOBILE.fullmatch(digits) and not _is_cpf(digits):
        return _mask_digits("55" + digits)
    return digits if _is_part_of_a_name(found) and not _is_cpf(digits) else "*" * 11


def _is_part_of_a_name(found: re.Match[str]) -> bool:
    """Say whether letters make the digits an id, as in "lead_12345678901", or a dot makes them a fraction."""
    before = found.string[max(found.start() - 2, 0) : found.start()]
    after = found.string[found.end() : found.end() + 1]
    return bool(re.search(r"[A-Za-z_]$|[A-Za-z]-$|\d\.$", before) or re.match(r"[A-Za-z_]", after))


def _mask_digits(digits: str) -> str:
    return f"+{digits[: min(8, len(digits) - 4)]}****"


def _mask_scoped_id(text: str) -> str:
    country, _, rest = text.partition(".")
    return f"{country}.{rest[:_SHOWN_OF_SCOPED_ID] if len(rest) > 2 * _SHOWN_OF_SCOPED_ID else ''}***"


def _mask_card(found: re.Match[str]) -> str:
    digits = _digits(found[0])
    return "****-****-****-****" if _ISSUER.match(digits) and _passes_luhn(digits) else found[0]


def _digits(text: str) -> str:
    return "".join(filter(str.isdigit, text))


def _passes_luhn(digits: str) -> bool:
    doubled = (int(each) * (1 + place % 2) for place, each in enumerate(reversed(digits)))
    return sum(sum(divmod(each, 10)) for each in doubled) % 10 == 0


def _is_cpf(digits: str) -> bool:
    return all(_cpf_digit(digits[:size]) == int(digits[size]) for size in (9, 10)) and len(set(digits)) > 1


def _cpf_digit(head: str) -> int:
    weighted = sum(int(each) * (len(head) + 1 - place) for place, each in enumerate(head))
    return weighted * 10 % 11 % 10


def _is_cnpj(text: str) -> bool:
    """Check both digits; letters count as their code minus 48 (alphanumeric CNPJ, in use since July 2026).

    Source: Receita Federal, CNPJ alfanumérico, as quoted in the redaction notes read 2026-11-22.
    """
    return all(_cnpj_digit(text[:size]) == int(text[size]) for size in (12, 13)) and len(set(text)) > 1


def _cnpj_digit(head: str) -> int:
    weighted = sum((ord(each) - 48) * (2 + place % 8) for place, each in enumerate(reversed(head)))
    return -weighted % 11 % 10


_MASKS: Mapping[str, Callable[[re.Match[str]], str]] = {
    "keep": _keep,
    "hash": _mask_hash,
    "bsuid": lambda found: _mask_scoped_id(found[0]),
    "phone": lambda found: _mask_written(found[0]),
    "cpf": lambda _: "***.***.***-**",
    "cnpj": lambda _: "**.***.***/****-**",
    "written": lambda found: _mask_written(found[0]),
    "firm": _mask_firm,
    "bare": _mask_bare,
}
_MASKS_BY_LENGTH: Mapping[int, Callable[[re.Match[str]], str]] = {10: _mask_ten, 11: _mask_eleven, 14: _mask_firm}
