"""The names producers call and beat runs.

from tasks import create_lead
create_lead.delay(nome="Ana Teste", email="ana.teste@exemplo.com.br", interesse="produto_a")
"""

from tasks.app import app
from tasks.deliver import create_lead, send_email, send_whatsapp
from tasks.upkeep import absorb, chain, confirm, drain, health, purge, sweep

__all__ = [
    "absorb",
    "app",
    "chain",
    "confirm",
    "create_lead",
    "drain",
    "health",
    "purge",
    "send_email",
    "send_whatsapp",
    "sweep",
]
