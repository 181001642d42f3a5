"""Webhooks of a provider that a form describes: the paths of its `webhook.shape` lead to the facts. Pure."""

from config.policy import Shape
from delivery.inbound import Event, Told, at_path, instant_at, uuid_at, word_at


def described_events(body: object, shape: Shape) -> Told:
    """Return what a parsed body tells. An event without an id or without our delivery id is left out and counted."""
    listed = at_path(body, shape.events) if shape.events else [body]
    found = [_event(each, shape) for each in (listed if isinstance(listed, list) else [])]
    events = [each for each in found if each is not None]
    return Told(events, {"without id": len(found) - len(events)} if len(events) < len(found) else {})


def _event(found: object, shape: Shape) -> Event | None:
    key, delivery_id = word_at(found, shape.id), uuid_at(found, shape.delivery)
    if key is None or delivery_id is None:
        return None
    status = shape.statuses.get(word_at(found, shape.status) or "")
    word = word_at(found, shape.code, longest=60) if shape.code and status in ("failed", "bounced") else None
    return Event(
        key=f"status:{key}",
        kind="status",
        at=instant_at(found, shape.at) if shape.at else None,
        delivery_id=delivery_id,
        status=status,
        receipt=word_at(found, shape.receipt) if shape.receipt else None,
        provider_code=word,
    )
