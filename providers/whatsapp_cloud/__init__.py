"""WhatsApp through Meta's Cloud API: sends messages."""

from providers.whatsapp_cloud.provider import WhatsAppCloud

__all__ = ["WhatsAppCloud"]
