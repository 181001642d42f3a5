"""The producers' own endpoints: tells them what became of their deliveries."""

from providers.callback.provider import CallbackSender
from providers.callback.reach import PublicReach

__all__ = ["CallbackSender", "PublicReach"]
