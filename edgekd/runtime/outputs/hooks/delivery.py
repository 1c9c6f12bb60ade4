"""What the command and the webhook of `[hook]` share: the protocol of a delivery, its error, and text that is safe to
print."""

from typing import Protocol

POLL_S = 0.05
"""How often a running delivery looks whether it must end, seconds."""
MAX_SHOWN_CHARS = 120
"""Characters of text from elsewhere that a line shows."""


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


def printable(text: str) -> str:
    """`text` in one line of at most `MAX_SHOWN_CHARS` characters, without control characters, which could move a
    terminal's cursor."""
    visible = " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())
    return visible if len(visible) <= MAX_SHOWN_CHARS else visible[: MAX_SHOWN_CHARS - 3] + "..."
