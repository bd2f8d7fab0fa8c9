"""Formatting of sizes and numbers."""

from collections.abc import Iterable


def sizes_in_words(sizes: Iterable[float]) -> str:
    """A size along each axis, such as ``1 x 1 x 2.5``."""
    return " x ".join(f"{size:g}" for size in sizes)


def counted(number: int, noun: str) -> str:
    """Such as ``1 case`` or ``2 cases``."""
    return f"{number} {noun}{'' if number == 1 else 's'}"
