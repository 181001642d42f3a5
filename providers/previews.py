"""Whether a command can be written for its provider: asked at the door, so that nothing is accepted that never goes.

Pure, and quick: it knows no account, reaches nothing, and builds no attachment.
"""

from delivery.commands import SendEmail, SendWhatsApp
from delivery.ports import Order


def check_writable(order: Order) -> None:
    """Write what a command's fields may spoil.

    Raises:
        Permanent: It will never work as it is.
    """
    command = order.command
    # Each adapter is loaded for the first command of its kind.
    if isinstance(command, SendWhatsApp):
        from providers.whatsapp_cloud.envelope import message_body

        message_body(command, order.delivery_id)
    elif isinstance(command, SendEmail):
        from providers.smtp.message import check_head

        check_head(order, command)
