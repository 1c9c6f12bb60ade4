"""What the command and the webhook of `[hook]` share: the protocol of a delivery and its error."""

from typing import Protocol

POLL_S = 0.05
"""How often a running delivery looks whether it must end, seconds."""


class DeliveryError(Exception):
    """An event was not delivered. The message is shown, so it holds no secret."""


class Delivery(Protocol):
    """One way to deliver events."""

    name: str

    @property
    def error(self) -> str | None:
        """Why the event that is being delivered has not arrived yet; None once it has."""
        ...

    def deliver(self, body: bytes) -> None:
        """Deliver an event, JSON. The text of what it raises holds no secret."""
        ...

    def stop(self) -> None:
        """Give up the event that is being delivered, and ignore all later ones."""
        ...
