"""How numbers are told to people."""


def counted(number: float, one: str, many: str = "", *, form: str = ",") -> str:
    """A number with its noun: "1 clip", "2,000 clips".

    Args:
        number: that is shown.
        one: what follows 1, with the verb where it differs: "clip is".
        many: what follows any other number; "" is `one` with an s.
        form: of the number, as of `format`.
    """
    shown = format(number, form)
    return f"{shown} {one if shown == '1' else many or one + 's'}"
