"""E-mail over SMTP submission: one message, one connection, one verdict that knows in which phase it was lost."""

from providers.smtp.provider import Smtp

__all__ = ["Smtp"]
