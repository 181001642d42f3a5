"""The client. Each submit makes one key before its first try, so that tries, however many, are one delivery."""

from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, Literal, Self, TypeVar
from urllib.parse import quote
from uuid import uuid4

from entrega_client.answers import Delivery, ItemAnswer, Receipt, delivery_of, item_of, receipt_of
from entrega_client.calls import Clock, Line, Request, json_body
from entrega_client.errors import NotCancelable, Unavailable, UnexpectedAnswer

Kind = Literal["create_lead", "send_whatsapp", "send_email"]

_PATHS: Mapping[str, str] = {
    "create_lead": "/v1/leads",
    "send_whatsapp": "/v1/whatsapp",
    "send_email": "/v1/emails",
}
_LONGEST_POLL_S = 25
_POLL_PAUSE_S = 1.0
_T = TypeVar("_T")


class Entrega:
    """One Entrega and one API key. Use it in one thread; make another for another thread.

    Args:
        url: Where Entrega listens, e.g. "https://entrega.example.com".
        key: The API key.
        language: Of the sentences: "pt-BR" or "en".
        deadline_s: End of each call, all its tries and pauses together.
    """

    def __init__(
        self,
        url: str,
        key: str,
        *,
        language: str = "pt-BR",
        deadline_s: float = 30.0,
        clock: Clock | None = None,
    ) -> None:
        self._line = Line(url, key, language=language, deadline_s=deadline_s, clock=clock or Clock())

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the connections."""
        self.close()

    def close(self) -> None:
        """Close the pooled connections."""
        self._line.close()

    def create_lead(  # noqa: PLR0913 - the fields of a lead
        self,
        *,
        nome: str,
        email: str,
        interesse: str,
        telefone: str | None = None,
        empresa: str | None = None,
        cargo: str | None = None,
        origem: str | None = None,
        observacoes: str | None = None,
        tags: Sequence[str] | None = None,
        options: Mapping[str, Any] | None = None,
        key: str | None = None,
    ) -> Receipt:
        """Hand over one lead for the CRM. See `submit` for `options`, `key` and what is raised."""
        body = {
            "nome": nome, "email": email, "interesse": interesse, "telefone": telefone, "empresa": empresa,
            "cargo": cargo, "origem": origem, "observacoes": observacoes, "tags": None if tags is None else list(tags),
            "options": options,
        }  # fmt: skip
        return self.submit("create_lead", _given(body), key=key)

    def send_whatsapp(  # noqa: PLR0913 - the fields of a message
        self,
        to: str,
        *,
        text: str | None = None,
        template: Mapping[str, Any] | None = None,
        media: Mapping[str, Any] | None = None,
        message: Mapping[str, Any] | None = None,
        reply_to: str | None = None,
        options: Mapping[str, Any] | None = None,
        key: str | None = None,
    ) -> Receipt:
        """Send one WhatsApp message: one of text, template, media and message. See `submit`."""
        body = {
            "to": to, "text": text, "template": template, "media": media, "message": message, "reply_to": reply_to,
            "options": options,
        }  # fmt: skip
        return self.submit("send_whatsapp", _given(body), key=key)

    def send_email(  # noqa: PLR0913 - the fields of an e-mail
        self,
        to: str | Sequence[str],
        *,
        subject: str,
        text: str | None = None,
        html: str | None = None,
        cc: Sequence[str] | None = None,
        bcc: Sequence[str] | None = None,
        reply_to: str | None = None,
        sender: str | None = None,
        attachments: Sequence[Mapping[str, Any]] | None = None,
        options: Mapping[str, Any] | None = None,
        key: str | None = None,
    ) -> Receipt:
        """Send one e-mail with a text part, an HTML part or both; `sender` is its From. See `submit`."""
        body = {
            "to": to, "subject": subject, "text": text, "html": html, "cc": cc, "bcc": bcc, "reply_to": reply_to,
            "from": sender, "attachments": attachments, "options": options,
        }  # fmt: skip
        return self.submit("send_email", _given(body), key=key)

    def submit(self, kind: Kind, body: Mapping[str, Any], *, key: str | None = None) -> Receipt:
        """Hand over one command; it is durable when this returns.

        Args:
            body: Fields of the kind, `options` included.
            key: What makes the command unique, e.g. the id of a conversation's turn. Give one where your own program
                may run this line again for the same thing; else each call is a command of its own.

        Raises:
            Refused: A field is wrong; `issues` names it, and nothing was written.
            KeyReused: The key stands for another command.
            Forbidden: The API key may not do this.
            Unavailable: No usable answer came in time; the same call with `key=` that of the error is safe.
            ValueError: The body cannot be JSON, its key is not `key`, or it asks for a dry run, which has no receipt.
        """
        key = _key_of(body, key)
        request = Request("POST", _PATHS[kind], json_body(body), key=key)
        return _read(self._line.call(request), lambda told: receipt_of(told, key))

    def submit_many(self, items: Sequence[Mapping[str, Any]], *, deadline_s: float = 120.0) -> list[ItemAnswer]:
        """Hand over up to 10,000 commands with one call; one answer for each, in order.

        Args:
            items: Bodies, each with its `kind`; those without `options.key` get one each.
                Shape: {"kind": "create_lead", ...}

        Raises:
            Unavailable: As `submit`; to try again, give it the error's `items`, which have their keys.
            EntregaError: As `submit`, for the call as a whole; what is wrong with one item stands in its answer.
        """
        keys = [_key_of(each, None) for each in items]
        keyed = [_with_key(each, key) for each, key in zip(items, keys, strict=True)]
        request = Request("POST", "/v1/bulk", json_body({"items": keyed}), timeout_s=deadline_s)
        try:
            told = self._line.call(request, deadline_s=deadline_s)
        except Unavailable as err:
            err.items = keyed
            raise
        return _read(told, lambda body: [item_of(each, key) for each, key in zip(body["items"], keys, strict=True)])

    def check(self, delivery_id: str) -> Delivery:
        """Return a delivery as it stands now.

        Raises:
            NotFound: There is none, or it is another producer's.
            Unavailable: No usable answer came in time.
        """
        return self._look(delivery_id, 0)

    def wait(self, delivery_id: str, timeout: float) -> Delivery:
        """Return a delivery once it is settled, or as it stands after `timeout` seconds; see `is_settled`.

        Raises:
            NotFound: There is none, or it is another producer's.
            Unavailable: No usable answer came in time.
        """
        clock = self._line.clock
        end = clock.now() + timeout
        found = self.check(delivery_id)
        while not found.is_settled and clock.now() < end:
            asked_at = clock.now()
            found = self._look(delivery_id, max(1, min(_LONGEST_POLL_S, int(end - asked_at))))
            if not found.is_settled:
                # A server with too many who wait answers at once.
                clock.sleep(max(0.0, min(asked_at + _POLL_PAUSE_S, end) - clock.now()))
        return found

    def cancel(self, delivery_id: str, reason: str) -> None:
        """Make sure that a delivery is never sent; one that is canceled already is well.

        Args:
            reason: Why; kept in Entrega's audit trail, so it should name nobody.

        Raises:
            NotCancelable: It may already have had an effect.
            NotFound: There is none, or it is another producer's.
            Unavailable: No usable answer came in time; calling again is safe.
        """
        path = f"/v1/deliveries/{quote(delivery_id, safe='')}/cancel"
        try:
            self._line.call(Request("POST", path, json_body({"reason": reason})))
        except NotCancelable:
            # The answer to an earlier try may have been lost on its way.
            if self.check(delivery_id).state != "canceled":
                raise

    def _look(self, delivery_id: str, wait_s: int) -> Delivery:
        path = f"/v1/deliveries/{quote(delivery_id, safe='')}" + (f"?wait={wait_s}" if wait_s else "")
        return _read(self._line.call(Request("GET", path, timeout_s=wait_s + 10.0)), delivery_of)


def _given(body: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in body.items() if value is not None}


def _key_of(body: Mapping[str, Any], key: str | None) -> str:
    options = body.get("options") or {}
    if options.get("dry_run"):
        raise ValueError("options.dry_run asks for no delivery, so there would be no receipt; use POST /v1/simulate")
    own = options.get("key")
    if key is not None and own not in (None, key):
        raise ValueError("options.key and key= differ; give one of them")
    return str(key or own or uuid4())


def _with_key(item: Mapping[str, Any], key: str) -> dict[str, Any]:
    return {**item, "options": {**(item.get("options") or {}), "key": key}}


def _read(body: Any, reader: Callable[[Any], _T]) -> _T:
    try:
        return reader(body)
    except (KeyError, TypeError, ValueError, AttributeError) as err:
        message = f"an answer without what belongs into it ({type(err).__name__}); is the address right?"
        raise UnexpectedAnswer(message, code="unexpected_answer") from err
