"""A stand-in for the user's CRM: a token endpoint, leads that are unique by `external_id`, and a look-up.

It repeats the rules of the CRM by its own hand, and does not import ours, so that both can be wrong only separately.
Source: the user's specification, "API de leads" (read 2026-11-22); RFC 6749 §4.4 and RFC 6750 for the token.
"""

import base64
import binascii
import re
import secrets
import threading
import time
import uuid
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from urllib.parse import parse_qs, unquote_plus

from sandbox.faults import Fault
from sandbox.http_standin import Answer, Call, whole_seconds

_LEADS = "/api/v1/leads"
_TOKEN = "/oauth/token"  # noqa: S105 - a path
_INTERESTS = ("produto_a", "produto_b", "servico_x")
_EMAIL = re.compile(r"[^@\s]+@[^@\s.]+(\.[^@\s.]+)+")
_PHONE = re.compile(r"\+55\d{10,11}")
_LONGEST = {"nome": 100, "empresa": 200, "observacoes": 1000}
_MOST_TAGS = 10
_LIFE_S = 7200


@dataclass(frozen=True)
class CrmCredentials:
    """What the stand-in accepts; invented, and worth nothing anywhere else.

    Attributes:
        refresh_token: The one that an operator would get by authorising; each use of it brings another.
    """

    client_id: str = "sandbox-client"
    client_secret: str = "sandbox-client-secret"  # noqa: S105 - invented
    api_key: str = "sandbox-crm-key"
    refresh_token: str = "sandbox-refresh-token"  # noqa: S105 - invented


@dataclass
class _Lead:
    """One lead that was really created."""

    external_id: str | None
    fields: dict[str, object]
    answer: dict[str, object]


class CrmApi:
    """The CRM's meaning; state in memory, one lock.

    Settings: `expires_in` (seconds a new token lives), `idempotency` (false: the CRM ignores Idempotency-Key),
    `refresh_token` (authorise again: this one begins a new family, the old family is worth nothing).
    """

    settings: Collection[str] = ("expires_in", "idempotency", "refresh_token")

    def __init__(self, credentials: CrmCredentials | None = None) -> None:
        self._credentials = credentials or CrmCredentials()
        self._lock = threading.Lock()
        self.reset()

    def reset(self) -> None:
        """Forget every lead, token and setting."""
        with self._lock:
            self._leads: list[_Lead] = []
            self._by_external_id: dict[str, _Lead] = {}
            self._by_key: dict[str, Answer] = {}
            self._requests: Counter[str | None] = Counter()
            self._tokens: dict[str, float] = {}
            self._expires_in: float = _LIFE_S
            self._replays = True
            self._refresh_token: str | None = self._credentials.refresh_token
            self._used_up: set[str] = set()

    def configure(self, settings: Mapping[str, object]) -> None:
        """Apply the settings named in the class."""
        if "expires_in" in settings:
            self._expires_in = float(str(settings["expires_in"]))
        if "idempotency" in settings:
            self._replays = bool(settings["idempotency"])
        if "refresh_token" in settings:
            with self._lock:
                self._tokens.clear()
                self._used_up.clear()
                self._refresh_token = str(settings["refresh_token"])

    def hear(self, _value: object) -> None:
        """Refuse: nobody writes to a CRM."""
        raise ValueError("nobody writes to a CRM")

    def labels(self, call: Call) -> Collection[str]:
        """Return the operation, and the delivery id of a lead."""
        return (_operation(call), _external_id(call) or "", str(call.headers.get("Idempotency-Key", "")))

    def is_limited(self, call: Call) -> bool:
        """Tell whether the request counts: tokens are free."""
        return call.path != _TOKEN

    def see(self, call: Call) -> None:
        """Count a POST for its delivery, whatever becomes of it."""
        if call.method == "POST":
            with self._lock:
                self._requests[_external_id(call)] += 1

    def answer(self, call: Call) -> Answer:
        """Carry a request out."""
        match _operation(call):
            case "token":
                return self._grant(call)
            case "create_lead":
                return self._create(call) if self._is_authorized(call) else _unauthorized()
            case "find_lead":
                return self._find(call) if self._is_authorized(call) else _unauthorized()
        return _error(404, "NOT_FOUND", f"no route {call.method} {call.path}")

    def error(self, fault: Fault) -> Answer:
        """Return the CRM's error body for a planned status."""
        return _error(fault.status or 400, "PLANNED_FAULT", "the stand-in was told to answer this")

    def too_many(self, wait_s: float) -> Answer:
        """Return 429 with Retry-After."""
        refusal = _error(429, "RATE_LIMITED", "too many requests")
        return Answer(refusal.status, refusal.body, {"Retry-After": whole_seconds(wait_s)})

    def expire_tokens(self) -> None:
        """Forget every token."""
        with self._lock:
            self._tokens.clear()

    def effects(self) -> list[dict[str, object]]:
        """Return the leads really created.

        Shape: {"key": "<external_id>", "external_id", "lead_id", "at", "requests": POSTs seen with this external id}
        """
        with self._lock:
            return [
                {
                    "key": lead.external_id,
                    "external_id": lead.external_id,
                    "lead_id": lead.answer["lead_id"],
                    "at": lead.answer["created_at"],
                    "requests": self._requests[lead.external_id],
                }
                for lead in self._leads
            ]

    def _grant(self, call: Call) -> Answer:
        form = {name: values[0] for name, values in parse_qs(call.body.decode(errors="replace")).items()}
        client = _basic(call) or (form.get("client_id", ""), form.get("client_secret", ""))
        if client != (self._credentials.client_id, self._credentials.client_secret):
            return Answer(401, {"error": "invalid_client"}, {"WWW-Authenticate": 'Basic realm="crm"'})
        match form.get("grant_type"):
            case "client_credentials":
                with self._lock:
                    return self._new_token({})
            case "refresh_token":
                return self._refresh(form.get("refresh_token", ""))
        return Answer(400, {"error": "unsupported_grant_type"})

    def _refresh(self, used: str) -> Answer:
        """Rotate; one that was used before ends its whole family, as RFC 9700 §4.14.2 advises."""
        with self._lock:
            if used in self._used_up:
                self._refresh_token = None
                self._tokens.clear()
            if used != self._refresh_token:
                return Answer(400, {"error": "invalid_grant"})
            self._used_up.add(used)
            self._refresh_token = secrets.token_urlsafe(24)
            return self._new_token({"refresh_token": self._refresh_token})

    def _new_token(self, more: Mapping[str, str]) -> Answer:
        token = secrets.token_urlsafe(24)
        self._tokens[token] = time.monotonic() + self._expires_in
        body = {"access_token": token, "token_type": "Bearer", "expires_in": int(self._expires_in), **more}
        return Answer(200, body, {"Cache-Control": "no-store"})

    def _is_authorized(self, call: Call) -> bool:
        token = call.bearer()
        with self._lock:
            valid_token = token is not None and self._tokens.get(token, 0.0) > time.monotonic()
        return valid_token or call.headers.get("X-API-Key") == self._credentials.api_key

    def _create(self, call: Call) -> Answer:
        fields = call.parsed
        details = issues(fields)
        if not isinstance(fields, dict) or details:
            return _error(400, "VALIDATION_ERROR", "Dados inválidos", details)
        key = call.headers.get("Idempotency-Key")
        external_id = _external_id(call)
        with self._lock:
            if key in self._by_key and self._replays:
                first = self._by_key[key]
                return Answer(first.status, first.body, {"Idempotency-Replayed": "true"})
            if external_id in self._by_external_id:
                return _error(409, "CONFLICT", "external_id already exists")
            answer = self._add(external_id, fields)
            if key:
                self._by_key[key] = answer
            return answer

    def _add(self, external_id: str | None, fields: dict[str, object]) -> Answer:
        now = datetime.now(UTC)
        body: dict[str, object] = {
            "id": str(uuid.uuid4()),
            "status": "created",
            "lead_id": f"LEAD-{now.year}-{len(self._leads) + 1:06d}",
            "created_at": now.isoformat().replace("+00:00", "Z"),
            "message": "Lead criado com sucesso",
        }
        lead = _Lead(external_id, fields, body)
        self._leads.append(lead)
        if external_id:
            self._by_external_id[external_id] = lead
        return Answer(201, body)

    def _find(self, call: Call) -> Answer:
        external_id = _external_id(call)
        with self._lock:
            lead = self._by_external_id.get(external_id or "")
        return Answer(200, {"items": [{**lead.fields, **lead.answer}] if lead else []})


def issues(fields: object) -> list[dict[str, str]]:
    """Return what is wrong with a lead, as the CRM says it.

    Shape: [{"field": "email", "issue": "formato inválido"}]
    """
    if not isinstance(fields, dict):
        return [{"field": "body", "issue": "deve ser um objeto JSON"}]
    found = [(name, "obrigatório") for name in ("nome", "email", "interesse") if not fields.get(name)]
    found += [(name, f"máximo de {most} caracteres") for name, most in _LONGEST.items() if _length(fields, name) > most]
    found += [(name, issue) for name, issue, is_wrong in _formats(fields) if is_wrong]
    return [{"field": name, "issue": issue} for name, issue in found]


def _formats(fields: Mapping[str, object]) -> list[tuple[str, str, bool]]:
    email, phone = fields.get("email"), fields.get("telefone")
    interest, tags = fields.get("interesse"), fields.get("tags", [])
    return [
        ("email", "formato inválido", bool(email) and not _EMAIL.fullmatch(str(email))),
        ("telefone", "formato inválido", bool(phone) and not _PHONE.fullmatch(str(phone))),
        ("interesse", f"deve ser um de {', '.join(_INTERESTS)}", bool(interest) and interest not in _INTERESTS),
        ("tags", f"lista de no máximo {_MOST_TAGS} textos", not _is_tags(tags)),
    ]


def _is_tags(tags: object) -> bool:
    return tags is None or (
        isinstance(tags, list) and len(tags) <= _MOST_TAGS and all(isinstance(tag, str) for tag in tags)
    )


def _length(fields: Mapping[str, object], name: str) -> int:
    return len(str(fields.get(name) or ""))


def _operation(call: Call) -> str:
    routes = {("POST", _TOKEN): "token", ("POST", _LEADS): "create_lead", ("GET", _LEADS): "find_lead"}
    return routes.get((call.method, call.path), "unknown")


def _external_id(call: Call) -> str | None:
    body = call.parsed if call.method == "POST" and call.path == _LEADS else None
    value = body.get("external_id") if isinstance(body, dict) else call.query.get("external_id", [None])[0]
    return str(value) if value else None


def _basic(call: Call) -> tuple[str, str] | None:
    scheme, _, encoded = str(call.headers.get("Authorization", "")).partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        client_id, _, secret = base64.b64decode(encoded).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError):
        return None
    return unquote_plus(client_id), unquote_plus(secret)  # RFC 6749 §2.3.1: form-encoded before base64


def _unauthorized() -> Answer:
    refusal = _error(401, "UNAUTHORIZED", "token inválido ou expirado")
    return Answer(refusal.status, refusal.body, {"WWW-Authenticate": 'Bearer error="invalid_token"'})


def _error(status: int, code: str, message: str, details: Collection[Mapping[str, str]] = ()) -> Answer:
    return Answer(status, {"error": {"code": code, "message": message, "details": list(details)}})
