"""Numbers as people read them."""

from __future__ import annotations


def age_text(seconds: float) -> str:
    """``75`` → ``1 min 15 s``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    parts = [
        f"{hours} h" if hours else "",
        f"{minutes} min" if minutes else "",
        f"{rest} s" if rest or not minutes else "",
    ]
    return " ".join(part for part in parts[: 2 if hours else 3] if part)


def size(number: int) -> str:
    """``33554432`` → ``32 MiB``."""
    for unit, bytes_ in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if number >= bytes_:
            return f"{number / bytes_:.1f} {unit}".replace(".0 ", " ")
    return f"{number} B"
