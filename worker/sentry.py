"""Sends errors and alerts, and nothing else, to Sentry: no traces, sessions, breadcrumbs, locals, bodies or arguments.

Every event is rebuilt from a short list of its parts and masked by value and by field name before it leaves; an event
that cannot be masked is dropped. What a provider or a producer did wrong is not an error of ours and is never sent as
one; an alert says that a person must act, once in a while for each account and code.

Source: sentry-sdk 2.75.0, client.py and integrations/celery; Celery stack facts, section 10; read 2026-11-22.
"""

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

from pydantic import SecretStr

from delivery.alerts import Alert
from delivery.errors import InvalidCommand, KeyReused, ProducerRefused, ProviderError
from delivery.redaction import mask_value

# The library is loaded where there is something for it to do: most processes have no DSN, and start sooner without.
if TYPE_CHECKING:
    from sentry_sdk.integrations import Integration
    from sentry_sdk.types import Event, Hint

# Allow-list: a part that a later version of the library adds stays here until somebody looked at it.
_PARTS = (
    "event_id timestamp level platform logger message transaction exception threads tags contexts release environment "
    "server_name dist sdk fingerprint"
)
_FACTS_AS_TAGS = ("request_id", "action", "service", "account", "code", "attempt", "event")
# Every kind by name: what is left out is collected. This replaces `send_default_pii=False`, deprecated since 2.75.
_NOTHING: Any = {  # the library declares the type for checkers only, under a private name
    "user_info": False,
    "cookies": {"mode": "off"},
    "http_headers": {"request": {"mode": "off"}},
    "http_bodies": [],
    "url_query_params": {"mode": "off"},
    "graphql": {"document": False, "variables": False},
    "gen_ai": {"inputs": False, "outputs": False},
    "database_query_data": False,
    "queues": False,
    "stack_frame_variables": False,
}
_TAG = re.compile(r"[\w.:@/-]{1,200}")


def start_sentry(dsn: SecretStr | None, *, environment: str, release: str) -> bool:
    """Begin to report errors; without a DSN nothing is started, and a second call changes nothing.

    Args:
        dsn: Where to; holds a key, so it travels as a secret.
        environment: `sandbox`, `staging` or `production`.
        release: Version of the application.

    Returns:
        Whether errors are reported from now on.

    Raises:
        sentry_sdk.utils.BadDsn: The DSN cannot be read; say so at start rather than be silent for months.
    """
    if dsn is None or not dsn.get_secret_value():
        return False
    import sentry_sdk

    if sentry_sdk.get_client().dsn == dsn.get_secret_value():
        return True  # a worker sets itself up twice; a second client would leave the first one's thread behind
    sentry_sdk.init(
        dsn=dsn.get_secret_value(),
        environment=environment,
        release=release,
        before_send=scrub,
        before_breadcrumb=_drop,
        before_send_transaction=_drop,
        ignore_errors=[InvalidCommand, KeyReused, ProducerRefused, ProviderError],
        # Chosen one by one: the automatic ones record arguments, queries, requests and log lines.
        default_integrations=False,
        auto_enabling_integrations=False,
        integrations=_integrations(),
        data_collection=_NOTHING,
        max_request_body_size="never",
        max_breadcrumbs=0,
        traces_sample_rate=None,
        propagate_traces=False,
        auto_session_tracking=False,
        send_client_reports=False,
        enable_backpressure_handling=False,
        # A variable of the environment could otherwise send whole events to another address.
        spotlight=False,
        debug=False,
    )
    return True


def _integrations() -> "list[Integration]":
    from sentry_sdk.integrations.atexit import AtexitIntegration
    from sentry_sdk.integrations.celery import CeleryIntegration
    from sentry_sdk.integrations.dedupe import DedupeIntegration
    from sentry_sdk.integrations.excepthook import ExcepthookIntegration
    from sentry_sdk.integrations.threading import ThreadingIntegration

    return [
        AtexitIntegration(callback=_be_silent),
        CeleryIntegration(propagate_traces=False),
        DedupeIntegration(),
        ExcepthookIntegration(),
        ThreadingIntegration(propagate_scope=False),
    ]


def report_error(error: BaseException, facts: Mapping[str, object]) -> None:
    """Report one caught error with the ids of its log record as tags; does nothing before `start_sentry`.

    Meant for `configure_logging(on_error=report_error)`: what is logged with a traceback is worth an event.
    """
    import sentry_sdk

    with sentry_sdk.new_scope() as scope:
        for name in _FACTS_AS_TAGS:
            if facts.get(name) is not None:
                scope.set_tag(name, str(facts[name]))
        scope.capture_exception(error)


def report_alert(alert: Alert) -> None:
    """Report one alert, grouped by account and code; does nothing before `start_sentry`."""
    import sentry_sdk

    with sentry_sdk.new_scope() as scope:
        scope.fingerprint = ["alert", alert.account, alert.code]
        for name in ("severity", "account", "service", "code"):
            scope.set_tag(name, getattr(alert, name))
        level: Any = "warning" if alert.severity == "P2" else "error"
        scope.capture_message(f"{alert.severity} {alert.account} {alert.code}: {alert.next_step}", level=level)


def scrub(event: "Event", hint: "Hint") -> "Event | None":
    """Return the event's allowed parts, masked; None, which drops it, when masking fails."""
    hint.pop("attachments", None)
    try:
        return _scrubbed(cast("Mapping[str, Any]", event))
    except Exception:  # noqa: BLE001 - an event that cannot be masked must not leave, and reporting must not raise
        return None


def _scrubbed(event: Mapping[str, Any]) -> "Event":
    allowed = {name: event[name] for name in _PARTS.split() if name in event}
    for holder in _stack_holders(allowed):
        for frame in (holder.get("stacktrace") or {}).get("frames") or ():
            frame.pop("vars", None)
    allowed["tags"] = {str(key): each for key, each in dict(event.get("tags") or {}).items() if _is_word(each)}
    masked = mask_value(allowed)
    if not isinstance(masked, dict):
        raise TypeError("an event must stay a mapping")
    return cast("Event", masked)


def _stack_holders(event: Mapping[str, Any]) -> list[dict[str, Any]]:
    parts = (event.get("exception") or {}, event.get("threads") or {})
    return [each for part in parts for each in part.get("values") or ()]


def _is_word(value: object) -> bool:
    return bool(_TAG.fullmatch(str(value)))


def _drop(*_: object) -> None:
    """Refuse whatever it is given."""


def _be_silent(_pending: int, _timeout: float) -> None:
    """Say nothing at exit; the default prints to standard error."""
