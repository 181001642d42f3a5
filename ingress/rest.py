"""The REST door for producers: submit, follow, list and cancel deliveries.

Bodies are read and parsed strictly by hand, because two JSON parsers must never understand one command differently; the
intake checks the fields. Work on the ledger runs in threads, so that the event loop never waits for it.
"""

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated, Any
from uuid import UUID

import structlog
from fastapi import APIRouter, Depends, Header, Query, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse

from delivery.commands import KINDS
from delivery.errors import FieldIssue
from delivery.intake import Answer, Intake, Item
from delivery.wording import issue_text
from ingress.access import Caller, Doorkeeper
from ingress.bodies import JSON, MOST_SMALL_BYTES, NDJSON, BodyReader, checked, media_type, parsed_object
from ingress.bulk import MOST_BULK_BYTES, MOST_ITEMS, item_of_body, json_items, ndjson_items
from ingress.following import Follower
from ingress.holdings import Holdings
from ingress.openapi import any_command_body, bulk_body, command_body, model_body, refusals
from ingress.parameters import STRICT
from ingress.pressure import Pressure
from ingress.problems import Language, Problem, language_of
from ingress.shapes import (
    MOST_PAGE,
    BulkAnswer,
    DeliveryView,
    Moved,
    Page,
    Receipt,
    State,
    WithReason,
    item_of,
    page_of,
    refused_item,
)
from ingress.simulation import Simulation, Simulator
from ledger.api_keys import ApiKeys
from ledger.canceling import NotCancelable
from ledger.canceling import cancel as cancel_delivery
from ledger.models import OPEN_STATES
from ledger.order import next_in_order

if TYPE_CHECKING:
    from ledger.reading import Delivery
    from tasks.app import Entrega

_log = structlog.get_logger("entrega.web")

_PATHS = {"create_lead": "/leads", "send_whatsapp": "/whatsapp", "send_email": "/emails"}
SUBMIT_SCOPES = ("submit", *(f"submit:{kind}" for kind in _PATHS))

_LONGEST_WAIT_S = 25  # below the 30 s after which many proxies and clients give up
_SIMULATED = {"model": Simulation, "description": "Nothing was done: `options.dry_run` asked what would happen"}

Word = Annotated[str | None, Query(max_length=128, pattern=r"^[A-Za-z0-9_.:@-]+$")]
Key = Annotated[
    str | None,
    Header(alias="Idempotency-Key", description="The same as `options.key`.", examples=["conversa-4711"]),
]


async def spoken(request: Request) -> Language:  # async, so that it needs no thread
    """Return the language of the answer, as a dependency."""
    return language_of(request.headers.get("accept-language", ""))


Spoken = Annotated[Language, Depends(spoken)]


@dataclass(frozen=True)
class RestDoor:
    """What the routes stand on."""

    app: "Entrega"
    intake: Intake
    doorkeeper: Doorkeeper
    bodies: BodyReader
    pressure: Pressure
    holdings: Holdings
    simulator: Simulator
    follower: Follower

    def body(self, max_bytes: int, *types: str) -> Callable[[Request], AsyncIterator[bytes]]:
        """Return a dependency: the raw body, of one of these media types."""

        async def raw(request: Request) -> AsyncIterator[bytes]:
            async with self.bodies.reading(request, types=types or (JSON,), max_bytes=max_bytes) as found:
                yield found

        return raw

    def visible(self, caller: Caller, delivery_id: UUID) -> "Delivery":
        """Return a delivery that this caller may see.

        Raises:
            Problem: There is none, or it is another producer's, which is the same to this caller.
        """
        found = self.app.archive.find(delivery_id)
        if found is None or not (caller.sees_all or found.producer == caller.producer):
            raise Problem("not_found")
        return found

    def submit(self, caller: Caller, item: Item, language: Language) -> JSONResponse:
        """Accept one command, or only tell what would become of it when its options say `dry_run`."""
        if _only_asks(item):
            return self.simulate(caller, item, language)
        return JSONResponse(asdict(self.accept(caller, item, language)), 202)

    def accept(self, caller: Caller, item: Item, language: Language) -> Answer:
        """Accept one command; it is durable when this returns. Every door that asks for one at a time comes here."""
        self.pressure.check(item.kind)
        self.holdings.check(caller.producer)
        answer = self.intake.submit(item.kind, item.body, producer=caller.producer, language=language)
        _log.info("accepted", kind=answer.kind, delivery_id=answer.id, producer=caller.producer, state=answer.state)
        return answer

    def simulate(self, caller: Caller, item: Item, language: Language) -> JSONResponse:
        """Tell what would become of a command."""
        found = self.simulator.simulate(item, caller, language)
        return JSONResponse(found.model_dump(mode="json"))

    def submit_many(self, caller: Caller, items: Sequence[Item | Problem], language: Language) -> JSONResponse:
        """Accept many commands with one write; what one of them has wrong costs no other."""
        checked = [each if isinstance(each, Problem) else self._permitted(caller, each) for each in items]
        wanted = [each for each in checked if isinstance(each, Item)]
        replies = self.intake.submit_many(wanted, producer=caller.producer, language=language)
        answers = iter([item_of(each, language) for each in replies])
        shown = [next(answers) if isinstance(each, Item) else refused_item(each, language) for each in checked]
        accepted = sum(each.answer is not None for each in replies)
        _log.info("accepted_many", accepted=accepted, refused=len(shown) - accepted, producer=caller.producer)
        return JSONResponse({"accepted": accepted, "refused": len(shown) - accepted, "items": shown}, 202)

    def cancel(self, caller: Caller, delivery_id: UUID, reason: str) -> None:
        """Make sure that a delivery which this caller may see is never sent.

        Raises:
            Problem: There is none for this caller, or it may already have had an effect.
        """
        found = self.visible(caller, delivery_id)
        try:
            cancel_delivery(self.app.database, delivery_id, actor=caller.actor, reason=reason)
        except NotCancelable:
            raise Problem("not_cancelable", state=found.state) from None
        self.app.hints.send(next_in_order(self.app.database, [delivery_id]))

    def _permitted(self, caller: Caller, item: Item) -> Item | Problem:
        scope = f"submit:{item.kind}"
        if item.kind in KINDS and not caller.may(scope):
            return Problem("missing_scope", scope=scope)
        try:
            self.pressure.check(item.kind)
            self.holdings.check(caller.producer)
        except Problem as err:
            return err
        return item


def rest_door(app: "Entrega") -> RestDoor:
    """Return what the doors of one process stand on."""
    doorkeeper = Doorkeeper(ApiKeys(app.database), app.settings.bootstrap_key())
    pressure, follower = Pressure(app.archive.due, app.specs), Follower(app.archive.standings)
    holdings = Holdings(app.archive.holdings, app.policies.of)
    return RestDoor(app, app.intake, doorkeeper, BodyReader(), pressure, holdings, Simulator(app), follower)


def rest_router(door: RestDoor) -> APIRouter:
    """Return the routes for producers."""
    router = APIRouter(prefix="/v1", dependencies=STRICT)
    for kind, path in _PATHS.items():
        _add_submit(router, door, kind, path)
    _add_bulk(router, door)
    _add_simulation(router, door)
    _add_reading(router, door)
    _add_cancel(router, door)
    return router


def _add_submit(router: APIRouter, door: RestDoor, kind: str, path: str) -> None:
    needs = Annotated[Caller, Depends(door.doorkeeper.needs(f"submit:{kind}"))]
    body = Annotated[bytes, Depends(door.body(door.intake.max_bytes))]

    def submit(caller: needs, raw: body, language: Spoken, key: Key = None) -> JSONResponse:
        return door.submit(caller, Item(kind, with_key(parsed_object(raw), key, language)), language)

    router.add_api_route(
        path,
        submit,
        methods=["POST"],
        operation_id=kind,
        summary=f"Hand over one {kind}",
        status_code=202,
        responses={200: _SIMULATED, 202: {"model": Receipt}, **refusals(409, 429, body=True)},
        openapi_extra=command_body(kind),
        tags=["submit"],
    )


def _add_bulk(router: APIRouter, door: RestDoor) -> None:
    @router.post(
        "/bulk",
        operation_id="submit_bulk",
        status_code=202,
        responses={202: {"model": BulkAnswer}, **refusals(body=True)},
        openapi_extra=bulk_body(MOST_ITEMS),
        tags=["submit"],
    )
    def bulk(
        request: Request,
        caller: Annotated[Caller, Depends(door.doorkeeper.needs(*SUBMIT_SCOPES))],
        raw: Annotated[bytes, Depends(door.body(MOST_BULK_BYTES, JSON, NDJSON))],
        language: Spoken,
    ) -> JSONResponse:
        """Hand over up to 10,000 commands. Each item may have its own `options.key`; answers come in the same order."""
        read = ndjson_items if media_type(request) == NDJSON else json_items
        return door.submit_many(caller, read(raw, language), language)


def _add_simulation(router: APIRouter, door: RestDoor) -> None:
    @router.post(
        "/simulate",
        operation_id="simulate",
        responses={200: {"model": Simulation}, **refusals(429, body=True)},
        openapi_extra=any_command_body(),
        tags=["submit"],
    )
    def simulate(
        caller: Annotated[Caller, Depends(door.doorkeeper.needs(*SUBMIT_SCOPES))],
        raw: Annotated[bytes, Depends(door.body(door.intake.max_bytes))],
        language: Spoken,
        key: Key = None,
    ) -> JSONResponse:
        """Tell what would become of a command. Nothing is written and no provider is asked."""
        item = item_of_body(parsed_object(raw))
        scope = f"submit:{item.kind}"
        if item.kind in KINDS and not caller.may(scope):
            raise Problem("missing_scope", scope=scope)
        return door.simulate(caller, Item(item.kind, with_key(item.body, key, language)), language)


def _add_reading(router: APIRouter, door: RestDoor) -> None:
    reader = Annotated[Caller, Depends(door.doorkeeper.needs("read"))]

    @router.get("/deliveries", operation_id="list_deliveries", responses=refusals(), tags=["deliveries"])
    def list_deliveries(  # noqa: PLR0913, PLR0917 - a query's filters
        caller: reader,
        state: Annotated[list[State] | None, Query(description="Only this state; may be given several times.")] = None,
        kind: Word = None,
        account: Word = None,
        producer: Word = None,
        before: Annotated[UUID | None, Query(description="`next` of the page before.")] = None,
        limit: Annotated[int, Query(ge=1, le=MOST_PAGE)] = 50,
    ) -> Page:
        """List deliveries, newest first. `producer` is for operators; others see their own alone."""
        whose = producer if caller.sees_all else caller.producer
        found = door.app.archive.search(
            states=tuple(state or ()), kind=kind, account=account, producer=whose, before=before, most=limit + 1
        )
        return page_of(found, limit)

    @router.get("/deliveries/{delivery_id}", operation_id="show_delivery", responses=refusals(404), tags=["deliveries"])
    async def show(
        caller: reader,
        delivery_id: UUID,
        wait: Annotated[int, Query(ge=0, le=_LONGEST_WAIT_S, description="Seconds to wait for news.")] = 0,
    ) -> DeliveryView:
        """Show one delivery with the timeline of its attempts; with `wait`, once there is news, or in that time."""
        found = await run_in_threadpool(door.visible, caller, delivery_id)
        if wait and found.state in OPEN_STATES:
            await door.follower.news(delivery_id, (found.state, found.progress), within_s=wait)
            found = await run_in_threadpool(door.visible, caller, delivery_id)
        return DeliveryView.model_validate(found)


def _add_cancel(router: APIRouter, door: RestDoor) -> None:
    @router.post(
        "/deliveries/{delivery_id}/cancel",
        operation_id="cancel_delivery",
        responses=refusals(404, 409, body=True),
        openapi_extra=model_body(WithReason),
        tags=["deliveries"],
    )
    def cancel(
        caller: Annotated[Caller, Depends(door.doorkeeper.needs("operate", *SUBMIT_SCOPES))],
        raw: Annotated[bytes, Depends(door.body(MOST_SMALL_BYTES))],
        delivery_id: UUID,
        language: Spoken,
    ) -> Moved:
        """Make sure that a delivery is never sent; refused when it may already have had an effect."""
        door.cancel(caller, delivery_id, checked(WithReason, raw, language).reason)
        return Moved(id=delivery_id, state="canceled")


def _only_asks(item: Item) -> bool:
    options = item.body.get("options")
    return isinstance(options, Mapping) and options.get("dry_run") is True


def with_key(body: Mapping[str, Any], key: str | None, language: Language) -> Mapping[str, Any]:
    """Return the body with the key of the `Idempotency-Key` header in its options.

    Raises:
        Problem: The body has another key.
    """
    options = body.get("options", {})
    if key is None or not isinstance(options, Mapping):
        return body
    if options.get("key") not in (None, key):
        raise Problem("invalid_command", details=(FieldIssue("options.key", issue_text("two_keys", language)),))
    return {**body, "options": {**options, "key": key}}
