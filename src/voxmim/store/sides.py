"""Left and right in label names.

In a scan flipped along X, the left kidney looks like a right one. Its label must be exchanged, or the network cannot
learn the sides.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from voxmim.settings import Augmentation

_OPPOSITE = {"left": "right", "lt": "rt", "lh": "rh", "l": "r"}
_OPPOSITE |= {right: left for left, right in _OPPOSITE.items()}
# RightParotid is Right and Parotid, LKidney L and Kidney
_PIECES = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[^A-Za-z]+")
# The sides of a heart differ in shape, so exchanging labels does not make its mirror image a heart.
_HEART = re.compile(r"heart|cardiac|myocard|atri(?:um|al)|(?<!lateral)(?<!lat)[ _-]ventric|^ventric|^[lr][av]$", re.I)
_MAX_ROTATION = 45.0  # degrees


@dataclass(frozen=True)
class Sides:
    """The labels of a data set that have a side."""

    partner: Mapping[int, int] = field(default_factory=dict)  # from each label value to that of the other side
    unpaired: tuple[str, ...] = ()  # names of labels or regions that have a side but no partner

    def __bool__(self) -> bool:
        return bool(self.partner or self.unpaired)

    def restrict(self, settings: Augmentation) -> tuple[Augmentation, list[str]]:
        """The augmentation without changes that confuse left and right, and a sentence on each of these.

        Flips along X are allowed if every label has a partner, because `augment.apply` exchanges the two.
        """
        if not self:
            return settings, []
        notes = []
        if self.unpaired and settings.flip and settings.flip_x:
            names = ", ".join(self.unpaired[:3]) + (", ..." if len(self.unpaired) > 3 else "")
            notes.append(f"Flips along X are off: the mirror image of these labels has no label ({names}).")
        if settings.rot90:
            notes.append("Quarter turns are off: the labels tell left from right.")
        if settings.affine and settings.rotate > _MAX_ROTATION:
            notes.append(f"Rotations stay below {_MAX_ROTATION:g} degrees: the labels tell left from right.")
        flip_x, rotate = settings.flip_x and not self.unpaired, min(settings.rotate, _MAX_ROTATION)
        return replace(settings, flip_x=flip_x, rot90=0.0, rotate=rotate), notes


def find_sides(labels: Mapping[int, str], regions: Mapping[str, Sequence[int]] | None = None) -> Sides:
    """Find the labels whose names have a side, such as ``kidney_left``, ``RightParotid`` or ``rkid``.

    A region with a side must have a partner region, too.
    """
    value_of = {name.casefold(): value for value, name in labels.items()}
    partner: dict[int, int] = {}
    unpaired = []
    for value, name in labels.items():
        other = _partner_name(name, value_of)
        if other is None:
            continue
        if other in value_of and not _HEART.search(name):
            partner[value] = value_of[other]
        else:
            unpaired.append(name)
    union = {name.casefold(): set(values) for name, values in (regions or {}).items()}
    for name, values in (regions or {}).items():
        other = _partner_name(name, union)
        if other is not None and union.get(other) != {partner.get(value, value) for value in values}:
            unpaired.append(name)
    return Sides(partner, tuple(unpaired))


def _partner_name(name: str, known: Mapping[str, object]) -> str | None:
    """The (case-folded) name of the other side; None for a label without a side.

    A separate word is always a side. Letters and words that are part of others (``rkid``, ``leftlung``, ``C1R``) are
    a side only if the partner exists, because ``lung`` or ``vertebra L5`` have no side.
    """
    pieces = _PIECES.findall(name)
    sides = {piece.casefold() for piece in pieces} & _OPPOSITE.keys()
    if any(_OPPOSITE[side] in sides for side in sides):
        return None  # left and right together
    if sides:
        other = "".join(_OPPOSITE.get(piece.casefold(), piece) for piece in pieces).casefold()
        if other in known or sides & {"left", "right"} or _stands_apart(pieces):
            return other
    return next((other for other in _affixed(name.casefold()) if other in known), None)


def _stands_apart(pieces: Sequence[str]) -> bool:
    """Whether a side is between separators or ends, as in ``Cochlea_L`` but not in ``L5``."""
    padded = ["_", *pieces, "_"]
    return any(
        piece.casefold() in _OPPOSITE and not before[-1].isalnum() and not after[0].isalnum()
        for before, piece, after in zip(padded, padded[1:], padded[2:], strict=False)
    )


def _affixed(name: str) -> Iterator[str]:
    """Names of the other side if the side is a prefix or suffix of a word."""
    for side, other in _OPPOSITE.items():
        if name.startswith(side):
            yield other + name[len(side) :]
        if name.endswith(side):
            yield name[: -len(side)] + other
