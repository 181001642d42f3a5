"""What this version can serve: each service, the adapter behind it, its command, and how it proves who we are.

A spec that asks for more than these tables hold is refused where it is read, by file, line and reason: the code would
otherwise ignore it without a word. A new service is a new row here, an adapter in `providers/` and a command.
"""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field

from config.spec_operations import Operation
from config.spec_sections import Authentication, Credentials

_KEY = "{api_key}"


@dataclass(frozen=True)
class Proof:
    """One kind of authentication that an adapter sends.

    Attributes:
        variables: The settings that it reads, by the spec's word for each.
        header: Where it always travels; None where the spec decides, or where it is no header.
        format: How it always stands there; None as for `header`.
    """

    variables: Mapping[str, str] = field(default_factory=dict)
    header: str | None = None
    format: str | None = None


@dataclass(frozen=True)
class Service:
    """One service.

    Attributes:
        operation: The one kind of command that its adapter carries out.
        proofs: What `authentication.type` may be.
        alternatives: What `authentication.alternatives` may be.
        fields: The names in the body that the adapter sends; None where they are not the command's own.
    """

    adapter: str
    operation: str
    proofs: Mapping[str, Proof]
    alternatives: tuple[str, ...] = ()
    fields: frozenset[str] | None = None


_CRM_LOGIN = Proof(
    {"client_id": "CRM_CLIENT_ID", "client_secret": "CRM_CLIENT_SECRET"}, "Authorization", "Bearer {token}"
)
_LEAD = "nome email telefone empresa cargo interesse origem observacoes tags"

SERVICES: Mapping[str, Service] = {
    "crm": Service(
        "crm_rest",
        "create_lead",
        {
            "oauth2_client_credentials": _CRM_LOGIN,
            "oauth2_refresh_token": _CRM_LOGIN,
            "api_key_header": Proof({"api_key": "CRM_API_KEY"}),
        },
        alternatives=("api_key_header",),
        fields=frozenset(_LEAD.split()),
    ),
    "whatsapp": Service(
        "whatsapp_cloud",
        "send_whatsapp",
        {"bearer": Proof({"token": "WHATSAPP_ACCESS_TOKEN"}, "Authorization", "Bearer {token}")},
    ),
    "email": Service("smtp", "send_email", {"smtp_login": Proof({"user": "SMTP_USER", "password": "SMTP_PASSWORD"})}),
    "callback": Service("callback", "callback", {"none": Proof()}),
}


def name_issue(name: str) -> str | None:
    """Return why no service of this name can be served; None when one can."""
    if name in SERVICES:
        return None
    known = ", ".join(SERVICES)
    return (
        f"this version serves {known} and no service {name!r}: nothing would be sent. A further account of one of them "
        "is added with `entrega accounts add`; a new service needs code, see CONTRIBUTING.md"
    )


def adapter_issue(service: str, adapter: str) -> str | None:
    """Return why this adapter cannot serve the service."""
    wanted = SERVICES[service].adapter
    return None if adapter == wanted else f"{service} is served by {wanted} only"


def base_url_issues(service: str, urls: Collection[str]) -> Iterator[str]:
    """Yield what keeps the service's adapter from reaching these URLs."""
    over_smtp = SERVICES[service].adapter == "smtp"
    wrong = sorted({each for each in urls if not each.startswith("${") and each.startswith("smtp://") is not over_smtp})
    if wrong:
        yield f"{', '.join(wrong)}: {service} is reached by {'smtp://' if over_smtp else 'https://'}"


def operation_issues(service: str, operations: Mapping[str, Operation]) -> Iterator[str]:
    """Yield what these operations ask for that the service's adapter does not do."""
    wanted = SERVICES[service]
    for extra in sorted(set(operations) - {wanted.operation}):
        yield f"{extra}: this version has no such command for {service}; it carries out {wanted.operation} only"
    operation = operations.get(wanted.operation)
    if operation is None:
        yield f"no {wanted.operation}; it is the command that {service} carries out"
        return
    if (operation.method == "SMTP") is not (wanted.adapter == "smtp"):
        yield f"{wanted.operation}.method: {operation.method} is not what {wanted.adapter} speaks"
    yield from _field_issues(wanted, operation)


def _field_issues(wanted: Service, operation: Operation) -> Iterator[str]:
    if wanted.fields is None:
        return
    sent = {*wanted.fields, operation.look_up.field if operation.look_up else "external_id"}
    for name in sorted(set(operation.fields) - sent):
        yield (
            f"{wanted.operation}.fields.{name}: this version does not send it; "
            f"the body has {', '.join(sorted(sent))}, under these names"
        )


def proof_issues(service: str, authentication: Authentication) -> Iterator[str]:
    """Yield what these credentials ask for that would not be sent; never a value, one may stand in the wrong place."""
    yield from _way_issues(service, authentication, tuple(SERVICES[service].proofs))
    for each in authentication.alternatives:
        yield from (f"alternatives: {issue}" for issue in _way_issues(service, each, SERVICES[service].alternatives))


def _way_issues(service: str, way: Credentials, types: tuple[str, ...]) -> Iterator[str]:
    if way.type not in types:
        hint = f'; a fixed bearer token: type api_key_header, header Authorization, format "Bearer {_KEY}"'
        known = ", ".join(types) or "none here"
        yield f"type {way.type} is not sent to {service} by this version; wanted {known}" + (
            hint if "api_key_header" in types else ""
        )
        return
    proof = SERVICES[service].proofs[way.type]
    if dict(way.variables) != dict(proof.variables):
        named = ", ".join(f"{word}: {variable}" for word, variable in proof.variables.items())
        yield f"variables: wanted {{{named}}}; this version reads no others"
    for name, wanted in (("header", proof.header), ("format", proof.format)):
        if wanted is not None and getattr(way, name) != wanted:
            yield f"{name}: this version sends {wanted!r} and nothing else"
    if way.type == "api_key_header" and not (way.format or "").endswith(_KEY):
        yield f'format: wanted a text that ends in {_KEY}, e.g. "Bearer {_KEY}"'
