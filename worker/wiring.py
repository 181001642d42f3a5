"""Puts the delivery engine together: one provider for each account, from its settings and the specs."""

import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from os import getpid
from typing import TYPE_CHECKING

from redis import Redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from config.policy import Authentication, Spec, Timeouts, TlsVersion
from config.settings import Settings
from delivery.engine import Engine
from delivery.errors import Permanent
from delivery.judging import lease
from delivery.ports import Provider
from ledger.alerts import Alerts
from ledger.breakers import OpenBreakers
from ledger.calls import calls_lately
from ledger.credentials import PostgresCredentials
from ledger.endpoints import PostgresEndpoints
from ledger.rollouts import Rollouts
from ledger.sealing import keyed_hash, seal, unseal
from providers.callback import CallbackSender, PublicReach
from providers.crm_rest import CrmRest
from providers.grant_shelf import GrantShelf
from providers.http import HttpClient
from providers.oauth import ApiKey, ClientCredentials, Credentials, TokenSource
from providers.smtp import Smtp
from providers.token_shelf import Shelf, TokenShelf
from providers.unconfigured import Unconfigured
from providers.whatsapp_cloud import WhatsAppCloud
from tasks.app import LANE_THREADS
from worker.accounts import Providers
from worker.alerts import Alarm
from worker.breaker import BreakerGate, Changed
from worker.limits import LimitRules, SharedLimiter
from worker.metrics import Recorder
from worker.retry_budget import RetryBudgetGate
from worker.rollout import RolloutGate
from worker.telling import AttemptTeller

if TYPE_CHECKING:
    from tasks.app import Entrega

_TOKEN_PLACE = "redis.token"  # noqa: S105 - the name of a place, not a password


@dataclass(frozen=True)
class _Parts:
    """What providers are built from."""

    account: str
    settings: Settings
    http: Mapping[TlsVersion, HttpClient]
    redis: Redis | None
    token_key: bytes
    stored: PostgresCredentials
    recorder: Recorder
    endpoints: PostgresEndpoints
    threads: int


def build_engine(app: "Entrega", recorder: Recorder) -> Engine:
    """Return the engine of this worker process.

    Raises:
        LedgerUnavailable: Postgres is away: the key that protects cached tokens is kept there.
    """
    token_key = keyed_hash(app.ledger.vault.index_key, _TOKEN_PLACE)
    redis = shared_memory(app.settings)
    stored = PostgresCredentials(app.database, app.ledger.vault)
    threads = app.conf.worker_concurrency + LANE_THREADS
    oldest = {each.security.minimum_tls for each in app.specs.values()}
    http = {each: HttpClient(pool_size=threads, minimum_tls=each) for each in oldest}
    common = _Parts("", app.settings, http, redis, token_key, stored, recorder, app.ledger.endpoints, threads)
    alarm = Alarm(specs=app.specs, book=Alerts(app.database), recorder=recorder)
    providers = Providers(
        app.accounts,
        app.settings,
        lambda name, settings: _provider(
            replace(common, account=name, settings=settings), app.specs[name.partition(":")[0]]
        ),
        alarm=alarm.tell,
    )
    worker = f"{socket.gethostname()}:{getpid()}"
    # In this order: what a rollout holds back must cost no trial of the breaker, what the breaker stops no retry; and
    # what the limiter grants is not taken back, so it is the pacer, asked last.
    gates = (
        RolloutGate(app.specs, Rollouts(app.database, actor=worker).standing),
        breaker_gate(app, redis, changed=alarm.breaker_changed),
        RetryBudgetGate(app.specs, redis),
    )
    pacer = shared_limiter(app, redis)
    return Engine(app.ledger, providers, app.specs, AttemptTeller(recorder, alarm=alarm), worker, gates, pacer)


def breaker_gate(
    app: "Entrega", redis: Redis | None, *, changed: Callable[[Changed], None] | None = None
) -> BreakerGate:
    """Return the breakers that all workers share; the ledger remembers which are open."""
    return BreakerGate(app.specs, redis, book=OpenBreakers(app.database), changed=changed)


def shared_limiter(app: "Entrega", redis: Redis | None) -> SharedLimiter:
    """Return the limiter that all workers share; for a person it knows a keyed hash and no address."""
    rules = LimitRules(
        limits={name: spec.limits for name, spec in app.specs.items()},
        lease=lambda each: lease(app.specs[each.order.command.service].operations[each.order.command.kind]),
        recipient_key=lambda each: app.ledger.vault.hash(each.order.command.recipient).hex()[:32],
        asked=lambda settlement: settlement.retry_after,
        called=lambda account, span, most: calls_lately(app.database, account, span=span, most=most),
        processes=app.settings.entrega_workers,
    )
    return SharedLimiter(redis, rules)


def shared_memory(settings: Settings) -> Redis | None:
    """Return where workers share tokens and breakers, or None when no Redis is set."""
    if settings.redis_url is None:
        return None
    # No retries inside: a fresh token or a breaker of one's own is quicker to have than an absent Redis.
    url = settings.redis_url.get_secret_value()
    return Redis.from_url(url, socket_timeout=1, socket_connect_timeout=1, retry=Retry(NoBackoff(), 0))


def _provider(parts: _Parts, spec: Spec) -> Provider:
    missing = parts.settings.configured_services()[spec.name]
    if missing:
        return Unconfigured(parts.account, f"set {', '.join(missing)}, restart the workers")
    return _ADAPTERS[spec.adapter](parts, spec)


def _crm_rest(parts: _Parts, spec: Spec) -> Provider:
    base_url = spec.base_url(parts.settings.entrega_env, parts.settings.urls())
    return CrmRest(
        spec=spec,
        base_url=base_url,
        credentials=_crm_credentials(parts, spec),
        http=parts.http[spec.security.minimum_tls],
    )


def _crm_credentials(parts: _Parts, spec: Spec) -> Credentials:
    settings, auth = parts.settings, spec.authentication
    token_url = spec.token_url(settings.entrega_env, settings.urls())
    if not (settings.crm_client_id and settings.crm_client_secret and token_url and auth.renewal and auth.token_life):
        return _api_key(parts, auth)
    us = ClientCredentials(token_url, settings.crm_client_id, settings.crm_client_secret, auth.scope, auth.token_life)
    return TokenSource(
        credentials=us,
        shelf=_shelf(parts, spec, us),
        http=parts.http[spec.security.minimum_tls],
        timeouts=_token_timeouts(spec.operations["create_lead"].timeouts),
        margin=auth.renewal.margin,
        renewed=lambda: parts.recorder.token_renewed(service=spec.name),
    )


def _api_key(parts: _Parts, auth: Authentication) -> ApiKey:
    way = auth.api_key()
    if way is None or way.header is None or way.format is None:
        raise Permanent("the spec of the CRM sends no fixed key: set CRM_CLIENT_ID and CRM_CLIENT_SECRET")
    return ApiKey(parts.settings.crm_api_key or "", header=way.header, scheme=way.format.removesuffix("{api_key}"))


def _shelf(parts: _Parts, spec: Spec, us: ClientCredentials) -> Shelf:
    if spec.authentication.type == "oauth2_refresh_token":
        return GrantShelf(parts.stored, parts.account)
    return TokenShelf(
        redis=parts.redis,
        service=parts.account.removesuffix(":default"),
        mark=us.mark(),
        seal=lambda plain: seal(parts.token_key, plain, _TOKEN_PLACE),
        unseal=lambda sealed: unseal(parts.token_key, sealed, _TOKEN_PLACE),
    )


def _token_timeouts(call: Timeouts) -> Timeouts:
    # A token is fetched within the same lease as the call it is for, so it may take only a part of the margin.
    return Timeouts(connect_s=min(3, call.connect_s), read_s=min(8, call.read_s), total_s=min(10, call.total_s))


def _whatsapp_cloud(parts: _Parts, spec: Spec) -> Provider:
    settings = parts.settings
    return WhatsAppCloud(
        spec=spec,
        base_url=spec.base_url(settings.entrega_env, settings.urls()),
        phone_number_id=settings.whatsapp_phone_number_id or "",
        token=settings.whatsapp_access_token or "",
        http=parts.http[spec.security.minimum_tls],
    )


def _smtp(parts: _Parts, spec: Spec) -> Provider:
    settings = parts.settings
    return Smtp(
        spec,
        settings.smtp_host or "",
        settings.smtp_submission_port,
        settings.smtp_user or "",
        settings.smtp_password.get_secret_value() if settings.smtp_password else "",
        use_ssl=bool(settings.smtp_use_ssl),
        from_email=settings.from_email or "",
        environment=settings.entrega_env,
    )


def _callback(parts: _Parts, spec: Spec) -> Provider:
    # Not the session of the others: this one goes where producers say, and nowhere else than that is safe.
    reach = PublicReach(sandbox=parts.settings.entrega_env == "sandbox")
    http = HttpClient(pool_size=parts.threads, reach=reach, minimum_tls=spec.security.minimum_tls)
    return CallbackSender(spec=spec, endpoints=parts.endpoints, http=http)


_ADAPTERS: Mapping[str, Callable[[_Parts, Spec], Provider]] = {
    "crm_rest": _crm_rest,
    "whatsapp_cloud": _whatsapp_cloud,
    "smtp": _smtp,
    "callback": _callback,
}
