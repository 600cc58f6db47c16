"""Numbers and names as the page writes them."""

from __future__ import annotations

import math
from datetime import UTC, datetime


def number(value: float | None, digits: int = 3) -> str:
    """``value`` with ``digits`` significant digits; a dash for None, a power of ten where zeros would hide the digits."""
    if value is None:
        return "–"
    if value == 0:
        return "0"
    if not math.isfinite(value):
        return str(value).replace("-", "−")
    if 1e-3 <= abs(value) < 1e6:
        text = f"{value:.{digits}g}" if abs(value) < 10**digits else count(round(value))
        return text.replace("-", "−")
    mantissa, exponent = f"{value:.{digits - 1}e}".split("e")
    power = str(int(exponent)).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
    return f"{mantissa.rstrip('0').rstrip('.').replace('-', '−')}×10{power}"


def share(part: float, whole: float) -> str:
    """``part`` of ``whole`` in percent, without the sign; never 100 or 0 where it is not quite all or nothing."""
    if not whole:
        return "–"
    text = number(100 * part / whole)
    if part < whole and text == "100":
        return "> 99.9"
    return text


def count(value: int) -> str:
    """Digits in groups of three."""
    return f"{value:,}".replace(",", "\u202f")


def tick(value: int) -> str:
    """A power of ten as short as it goes: 100, 10k, 1M."""
    return f"{value // 10**6}M" if value >= 10**6 else f"{value // 10**3}k" if value >= 10**3 else str(value)


def plural(value: int, noun: str) -> str:
    """``1 thread``, ``2 threads``."""
    return f"{count(value)} {noun}{'' if value == 1 else 's'}"


def milliseconds(value: float) -> str:
    """Three digits or more, without the unit."""
    return f"{value:.{2 if value < 10 else 1 if value < 100 else 0}f}"


def size(bytes_: int) -> str:
    """Bytes in kB or MB."""
    return f"{bytes_ / 1e6:.2f} MB" if bytes_ >= 1e6 else f"{bytes_ / 1e3:.0f} kB"


def moment(text: str) -> str:
    """An ISO time to the minute, in UTC; anything else as it is."""
    try:
        return f"{datetime.fromisoformat(text).astimezone(UTC):%Y-%m-%d %H:%M} UTC"
    except ValueError:
        return text


def sentence(name: object) -> str:
    """``data_licence`` as ``Data licence``."""
    words = str(name).replace("_", " ")
    return words[:1].upper() + words[1:]


def plain(value: object) -> str:
    """A value of unknown kind: yes or no, a number, or its text."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return number(value, 4) if isinstance(value, int | float) else str(value)
