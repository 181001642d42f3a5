"""The three commands, and the callbacks about them, as Celery tasks.

Fields and rules: `delivery.commands`; policy: `config/integrations/`.
"""

from typing import Any

from tasks.app import app
from tasks.commands import RETRYING, CommandTask


@app.task(name="create_lead", bind=True, base=CommandTask, **RETRYING)
def create_lead(self: CommandTask, delivery_id: object = None, *surplus: object, **body: Any) -> None:
    """Create one lead in the CRM."""
    self.carry_out(delivery_id, surplus, body)


@app.task(name="send_whatsapp", bind=True, base=CommandTask, **RETRYING)
def send_whatsapp(self: CommandTask, delivery_id: object = None, *surplus: object, **body: Any) -> None:
    """Send one WhatsApp message."""
    self.carry_out(delivery_id, surplus, body)


@app.task(name="send_email", bind=True, base=CommandTask, **RETRYING)
def send_email(self: CommandTask, delivery_id: object = None, *surplus: object, **body: Any) -> None:
    """Send one e-mail."""
    self.carry_out(delivery_id, surplus, body)


@app.task(name="callback", bind=True, base=CommandTask, **RETRYING)
def callback(self: CommandTask, delivery_id: object = None, *surplus: object, **body: Any) -> None:
    """Tell a producer what became of its delivery; the ledger opens these, and no producer can."""
    self.carry_out(delivery_id, surplus, body)
