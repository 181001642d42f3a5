"""The CRM over REST: creates a lead once in effect, by an external id of ours and a look-up.

What a status means is the status table of the spec, `config/integrations/crm.yaml`; this module only obeys it. It
never retries and never decides what an uncertain attempt leads to.

Source: the user's API specification, sections 2.3, 3.1 and 5.1, read 2026-11-22. It names no look-up and no
idempotency key; both are additions of ours, described in the spec.
"""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime

from pydantic import JsonValue

from config.policy import LookUp, Spec
from delivery.errors import Ambiguous, Permanent, ProviderError
from delivery.outcomes import Receipt, Usage
from delivery.ports import Order, Wire
from providers.crm_rest.refusals import refusal
from providers.http import Answer, HttpClient, json_bytes
from providers.oauth import Credentials
from providers.usage import read_usage

_KIND = "create_lead"
_JSON = {"Accept": "application/json", "Content-Type": "application/json"}


def _utc_now() -> datetime:
    return datetime.now(UTC)


class CrmRest:
    """One account of the CRM.

    Args:
        spec: The filled-in form; its operation "create_lead" is carried out.
        base_url: Where the API lives, e.g. "https://crm.example.com".
        credentials: A shared token or an API key.
        http: The pooled session.
        now: The clock that a Retry-After date is held against when the answer has no date.
    """

    def __init__(
        self,
        *,
        spec: Spec,
        base_url: str,
        credentials: Credentials,
        http: HttpClient,
        now: Callable[[], datetime] = _utc_now,
    ) -> None:
        self._operation = spec.operations[_KIND]
        self._probe = spec.probe
        self._usage_headers = spec.limits.usage
        self._base_url = base_url.rstrip("/")
        self._credentials = credentials
        self._http = http
        self._now = now

    def send(self, order: Order) -> Receipt:
        """Create the lead; the bytes and headers are the same on every attempt, credentials excepted.

        Raises:
            Retryable: Surely not created; "unauthorized" after the token was renewed.
            Permanent: Refused. For fields that are wrong, the message names them and what is wrong, no value.
            Ambiguous: May have been created.
        """
        if order.command.kind != _KIND:
            raise Permanent(f"the CRM creates leads and cannot carry out {order.command.kind}", code="misconfigured")
        earlier = self._earlier(order) if order.doubtful else None
        if earlier is not None:
            return earlier
        operation = self._operation
        answer = self._call(
            operation.method, operation.path, headers=self._marks(order), body=json_bytes(self._content(order))
        )
        if operation.status(answer.status).verdict == "success":
            return self._receipt(answer)
        return self._refused(order, answer)

    def _earlier(self, order: Order) -> Receipt | None:
        """Look before sending again: not every CRM heeds the idempotency key. Where it cannot tell, the key must do."""
        try:
            return self.look_up(order)
        except ProviderError:
            return None

    def preview(self, order: Order) -> Wire:
        """Return the request that creates the lead, without credentials."""
        operation = self._operation
        headers = {**_JSON, **operation.headers, **self._marks(order)}
        return Wire(operation.method, self._base_url + operation.path, headers, self._content(order))

    def look_up(self, order: Order) -> Receipt | None:
        """Find the lead that an earlier attempt created; None when the CRM knows none.

        Raises:
            ProviderError: The CRM could not tell; nothing was changed by asking.
        """
        look_up = self._operation.look_up
        if look_up is None or look_up.path is None:
            raise Ambiguous("the CRM offers no look-up; add look_up to its spec or settle the delivery by hand")
        query = {name: text.replace("{delivery_id}", str(order.delivery_id)) for name, text in look_up.query.items()}
        answer = self._call(look_up.method, look_up.path, query=query)
        self._check(answer, look_up.path)
        return self._found(order, look_up, answer)

    def probe(self) -> str:
        """Ask for a lead that nobody has: reaches the API, proves the credentials, changes nothing.

        Raises:
            ProviderError: The CRM cannot be used now; the message says what to do.
        """
        answer = self._call(self._probe.method, self._probe.path, query=self._probe.query)
        self._check(answer, self._probe.path)
        return "token accepted"

    def _call(
        self,
        method: str,
        path: str,
        *,
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
        query: Mapping[str, str] | None = None,
    ) -> Answer:
        operation = self._operation
        proof = self._credentials.headers()
        answer = self._http.call(
            method,
            self._base_url + path,
            route=path,
            timeouts=operation.timeouts,
            headers={**_JSON, **operation.headers, **(headers or {}), **proof},
            body=body,
            query=query,
            max_bytes=operation.max_response_bytes,
        )
        if operation.status(answer.status).code == "unauthorized":
            self._credentials.refused(proof)
        return answer

    def _usage(self, answer: Answer) -> Usage | None:
        return read_usage(answer.headers, self._usage_headers, self._now())

    def _marks(self, order: Order) -> Mapping[str, str]:
        header = self._operation.idempotency_header
        return {header: str(order.delivery_id)} if header else {}

    def _content(self, order: Order) -> dict[str, JsonValue]:
        look_up = self._operation.look_up
        external_id = look_up.field if look_up else "external_id"
        return {**order.command.content(), external_id: str(order.delivery_id)}

    def _receipt(self, answer: Answer) -> Receipt:
        number, proof = answer.text_at("lead_id"), answer.text_at(self._operation.success_id)
        found = number or proof
        if found is None:
            message = f"the CRM answered {answer.status} without {self._operation.success_id}; look the lead up"
            raise Ambiguous(message, code="answer_lost", http_status=answer.status)
        detail = {"id": proof} if proof and proof != found else {}
        return Receipt(found, detail, answer.status, self._usage(answer))

    def _refused(self, order: Order, answer: Answer) -> Receipt:
        rule = self._operation.status(answer.status)
        content, usage = order.command.content(), self._usage(answer)
        refused = refusal(answer, rule, route=self._operation.path, content=content, now=self._now(), usage=usage)
        if rule.code == "conflict":
            return self._ours(order, refused)
        raise refused

    def _ours(self, order: Order, conflict: ProviderError) -> Receipt:
        """Tell a lead that an earlier attempt of ours created from one that somebody else did."""
        try:
            found = self.look_up(order)
        except ProviderError as err:
            message = "the CRM has such a lead and could not tell whether it is ours; look it up"
            raise Ambiguous(message, code="conflict", http_status=conflict.http_status) from err
        if found is None:
            raise conflict
        return found

    def _check(self, answer: Answer, route: str) -> None:
        rule = self._operation.status(answer.status)
        if rule.verdict != "success":
            raise refusal(answer, rule, route=route, content={}, now=self._now())

    def _found(self, order: Order, look_up: LookUp, answer: Answer) -> Receipt | None:
        items = answer.at(look_up.items or "items")
        if not isinstance(items, list):
            raise Ambiguous(f"the CRM's look-up answered without {look_up.items}", http_status=answer.status)
        for item in items:
            if isinstance(item, dict) and item.get(look_up.field) == str(order.delivery_id):
                return self._receipt(Answer(answer.status, answer.headers, json_bytes(item)))
        if items:
            # A server that does not know our filter lists other leads: that proves neither yes nor no.
            message = f"the CRM's look-up answered with leads that have another {look_up.field}; look by hand"
            raise Ambiguous(message, http_status=answer.status)
        return None
