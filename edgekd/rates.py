"""The sample rates that edgekd works with."""

from edgekd.errors import InputError

LEAST_RATE, MOST_RATE = 1_000, 768_000
"""Hz. No sound card and no recording is outside. A damaged header is, and resampling from a few Hz never ends."""


def require_rate(rate: int, what: str, remedy: str = "give one that is possible") -> None:
    """Refuse a sample rate that nothing works with.

    Args:
        rate: Hz.
        what: the words before the rate in the error, for instance "rate is".
        remedy: what to do.

    Raises:
        InputError: it is outside.
    """
    if not LEAST_RATE <= rate <= MOST_RATE:
        raise InputError(f"{what} {rate} Hz; {remedy}, {LEAST_RATE} to {MOST_RATE} Hz")
