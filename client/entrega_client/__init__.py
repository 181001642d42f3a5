"""A client for Entrega: submit, check, wait, cancel, and verify callbacks. Every call is safe to repeat."""

from entrega_client.answers import Attempt, Delivery, ItemAnswer, Receipt
from entrega_client.callbacks import BadSignature, verify_callback
from entrega_client.client import Entrega
from entrega_client.errors import (
    EntregaError,
    Forbidden,
    Issue,
    KeyReused,
    NotCancelable,
    NotFound,
    Refused,
    Unavailable,
    UnexpectedAnswer,
)

__all__ = [
    "Attempt",
    "BadSignature",
    "Delivery",
    "Entrega",
    "EntregaError",
    "Forbidden",
    "Issue",
    "ItemAnswer",
    "KeyReused",
    "NotCancelable",
    "NotFound",
    "Receipt",
    "Refused",
    "Unavailable",
    "UnexpectedAnswer",
    "verify_callback",
]
