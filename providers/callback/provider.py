"""Tells producers: posts a signed event to an endpoint of theirs, and obeys what it answers.

Any 2xx means that the producer has it; its body is not read for anything. What else a status means is the table of the
spec, `config/integrations/callback.yaml`. An endpoint that answers 410 is disabled until an operator enables it.

Source: Standard Webhooks specification, sections "Operational considerations" and "Event delivery", read 2026-11-22.
"""

from collections.abc import Callable
from datetime import UTC, datetime

from config.policy import Spec
from delivery.callbacks import Callback, Endpoint, Endpoints
from delivery.destinations import host_of
from delivery.errors import LedgerUnavailable, Permanent, ProviderError, Retryable
from delivery.outcomes import Receipt
from delivery.ports import Order, Wire
from providers.callback.signing import signed_headers
from providers.http import VERDICT_ERRORS, Answer, HttpClient, json_bytes

_GONE = "undeliverable"


def _utc_now() -> datetime:
    return datetime.now(UTC)


class CallbackSender:
    """Sends the callbacks of every endpoint.

    Args:
        endpoints: Asked before every attempt, so that a rotated secret or a disabled endpoint counts at once.
        http: With a `reach` that keeps callbacks out of our own network.
        now: The clock of the signature.
    """

    def __init__(
        self, *, spec: Spec, endpoints: Endpoints, http: HttpClient, now: Callable[[], datetime] = _utc_now
    ) -> None:
        self._operation = spec.operations[Callback.kind]
        self._endpoints = endpoints
        self._http = http
        self._now = now

    def send(self, order: Order) -> Receipt:
        """Post the event once; id and body are the same on every attempt, time and signature are not.

        Raises:
            Retryable: The endpoint did not take it, or could not be asked for.
            Permanent: The endpoint is gone or disabled, or its URL leads where no callback may go.
            Ambiguous: It may have arrived; the same id makes a repeat harmless.
        """
        command = order.command
        if not isinstance(command, Callback):
            raise Permanent(f"callbacks cannot carry out {command.kind}", code="misconfigured")
        endpoint = self._open_endpoint(command)
        answer = self._post(order, command, endpoint)
        rule = self._operation.status(answer.status)
        if rule.verdict == "success":
            return Receipt(str(order.delivery_id), http_status=answer.status)
        if rule.code == _GONE:
            self._disable(command, f"it answered {answer.status}")
        raise VERDICT_ERRORS[rule.verdict](
            f"{host_of(endpoint.url)} answered {answer.status}: {rule.meaning}",
            code=rule.code,
            retry_after=answer.retry_after(self._now()),
            http_status=answer.status,
        )

    def preview(self, order: Order) -> Wire:  # noqa: ARG002 - the port's shape
        """Refuse: no producer can hand a callback over, so none is simulated.

        Raises:
            Permanent: Always.
        """
        raise Permanent("callbacks are opened by the ledger alone", code="misconfigured")

    def look_up(self, order: Order) -> Receipt | None:  # noqa: ARG002 - the port's shape
        """Refuse: nobody can be asked.

        Raises:
            Permanent: Always.
        """
        raise Permanent("an endpoint cannot be asked what it has; a repeat with the same id is harmless")

    def probe(self) -> str:
        """Say where to look: there is no address of our own to reach."""
        return "each callback goes to its producer's address; entrega callbacks list shows them"

    def _open_endpoint(self, command: Callback) -> Endpoint:
        try:
            endpoint = self._endpoints.find(command.endpoint)
        except LedgerUnavailable as err:
            raise Retryable("the ledger could not be asked for the endpoint; nothing was sent") from err
        if endpoint is None:
            raise Permanent(f"there is no endpoint {command.endpoint}", code="misconfigured")
        if endpoint.disabled is not None:
            advice = f"enable it with: entrega callbacks enable {command.endpoint}, then replay"
            raise Permanent(f"the endpoint is disabled ({endpoint.disabled}); {advice}", code=_GONE)
        return endpoint

    def _post(self, order: Order, command: Callback, endpoint: Endpoint) -> Answer:
        operation, body = self._operation, json_bytes(command.body())
        try:
            return self._http.call(
                operation.method,
                endpoint.url,
                route="",  # the path of a producer's URL may hold a token
                timeouts=operation.timeouts,
                headers={**operation.headers, **signed_headers(order.delivery_id, self._now(), body, endpoint.secrets)},
                body=body,
                max_bytes=operation.max_response_bytes,
            )
        except ProviderError as err:
            if err.http_status is not None:
                # A redirect, or a body over the cap: the status came, and it is all that counts.
                return Answer(err.http_status, {}, b"")
            raise _for_an_endpoint(err) from None  # the cause's text quotes the whole URL

    def _disable(self, command: Callback, reason: str) -> None:
        try:
            self._endpoints.disable(command.endpoint, actor="callbacks", reason=reason)
        except LedgerUnavailable as err:
            message = "the endpoint is gone, and the ledger could not be told; it is asked again"
            raise Retryable(message, code="temporary") from err


def _for_an_endpoint(err: ProviderError) -> ProviderError:
    # A wrong certificate is the producer's to mend, and nothing was sent: patience, and no alarm for our operators.
    verdict = Retryable if err.code == "certificate" else type(err)
    return verdict(str(err), code=err.code)
