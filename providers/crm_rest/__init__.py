"""The CRM's REST API: hands leads over."""

from providers.crm_rest.provider import CrmRest

__all__ = ["CrmRest"]
