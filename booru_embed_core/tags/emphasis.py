"""Weights of the tags of a text: what brackets, numbers and signs around them multiply to.

1girl, ((cat ears)), {smile}, [hat|bow], 1.2::solo::
→   1, 1.1 * 1.1, 1.05, 1 and 1 (they alternate), 1.2
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from booru_embed_core.tags.normalize import PARTNER, Sign

FACTORS: Final = {"(": 1.1, "[": 1 / 1.1, "{": 1.05}
"""The weight of one pair of brackets without a number: as in AUTOMATIC1111's web UI, and braces as in NovelAI."""
MIN_WEIGHT: Final = 0.001
MAX_WEIGHT: Final = 100.0
"""Weights above 0 are limited to this range, which single brackets stay within."""
_NOVELAI: Final = "::"


@dataclass(eq=False)
class _Group:
    """What one opening sign began."""

    kind: str
    start: int
    is_list: bool = False
    alternates: bool = False
    factor: float = 1.0
    is_noted: bool = False

    def weigh(self, number: float | None, suffix: float | None) -> None:
        """Sets the factor at the closing bracket, before which `number` stands, and after which `suffix`."""
        is_edited = self.kind == "[" and number is not None
        self.is_noted = self.alternates or is_edited
        if suffix is not None:
            self.factor = suffix
        elif self.kind == "[" and self.is_noted:
            self.factor = 1.0
        elif number is not None:
            self.factor = number
        elif not (self.kind == "{" and self.alternates):
            self.factor = FACTORS[self.kind]


@dataclass(eq=False)
class Mention:
    """One mention of a tag or rating in a text.

    Attributes:
        typed: the text of it, with the signs around it.
        token_id: of the tag; None for a rating.
        rating: of `RATINGS`, or None.
        name: of the tag or rating.
        has_signs: whether signs stand around the name.
        note: how the name was read if not literally.
        weight: of its own signs, then also of the groups around it.
        is_noted: whether a group around it has a note.
    """

    typed: str
    token_id: int | None
    rating: str | None
    name: str
    has_signs: bool
    note: str | None
    weight: float
    is_noted: bool = False

    def notes(self) -> list[str]:
        """What was read differently from the spelling."""
        if self.weight == 1 and not self.has_signs and not self.note:  # the common case
            return []
        notes = [self.note] if self.note else []
        typed = " ".join(self.typed.split())
        if self.weight <= 0:
            notes.append(f"{typed}: weight {self.weight:g}, left out")
        elif self.weight != 1:
            read = f"read as {self.name} with weight" if self.has_signs else "weight"
            notes.append(f"{typed}: {read} {self.weight:g}")
        elif self.has_signs and not self.is_noted:
            notes.append(f"{typed}: read as {self.name}")
        return notes


@dataclass(eq=False)
class Emphasis:
    """Signs and tags of one text in their order; `finish` multiplies the weights. Linear in their number."""

    _open: list[_Group] = field(default_factory=list)
    _num_open: dict[str, int] = field(default_factory=dict)
    _events: list[tuple[_Group | Mention, bool]] = field(default_factory=list)
    """Groups as they open and close, and mentions between; False where a group closes."""

    def open(self, signs: Sequence[Sign], positions: Sequence[int]) -> float:
        """Opens the groups of `signs`, which stand at `positions`, outermost first; gives the weight of a minus."""
        own = 1.0
        for depth, (sign, position) in enumerate(zip(signs, positions, strict=True), start=1):
            if sign.kind == "-":
                own *= sign.value
            elif sign.kind == _NOVELAI:
                self._end(_NOVELAI)  # a number ends the one before
                self._begin(_Group(sign.kind, position, factor=sign.value))
            elif sign.kind:
                is_list = sign.is_list and depth < len(signs)  # else the quote belongs to the tag
                self._begin(_Group(sign.kind, position, is_list=is_list))
        return own

    def mention(self, mention: Mention) -> None:
        """Adds a mention within the groups that are open."""
        self._events.append((mention, True))

    def separate(self, kind: str) -> None:
        """Tells of a separator: after ``|`` or ``:``, the innermost bracket holds alternatives."""
        if kind not in ("|", ":"):
            return
        while self._open and self._open[-1].kind == _NOVELAI and self._num_open[_NOVELAI] < len(self._open):
            self._open[-1].factor = 1.0  # `{0.5::a|b}`: how often a is drawn
            self._end(_NOVELAI)
        if self._open:
            self._open[-1].alternates = True

    def close(self, signs: Sequence[Sign], positions: Sequence[int]) -> tuple[float, list[tuple[int, int, bool]]]:
        """Closes the groups of `signs`, which end at `positions`, innermost first.

        Returns:
            The weight of the tag alone, and where each group that needs a note starts and ends, and whether its parts
            alternate; else it is used for a part of the steps.
        """
        own, number = 1.0, None
        alternatives: list[tuple[int, int, bool]] = []
        index = 0
        while index < len(signs):
            sign, end = signs[index], positions[index]
            index += 1
            if sign.kind == ":":
                number = sign.value
            elif sign.kind == "+":
                own *= sign.value
            elif sign.kind == _NOVELAI:
                self._end(_NOVELAI)
            elif sign.kind:
                suffix = None
                while index < len(signs) and signs[index].kind == "+":
                    suffix, index = signs[index].value * (1.0 if suffix is None else suffix), index + 1
                group = self._end(PARTNER[sign.kind])
                is_edited = sign.kind == "]" and number is not None
                if group is None or (group.is_list and not is_edited):
                    own *= (1.0 if suffix is None else suffix) * (1.0 if number is None else number)
                else:
                    group.weigh(number, suffix)
                    alternatives += [(group.start, end, group.alternates)] if group.is_noted else []
                number = None
        return own * (1.0 if number is None else number), alternatives

    def is_closed_by(self, sign: Sign) -> bool:
        """Whether `sign` closes a group that is open."""
        return bool(self._num_open.get(PARTNER.get(sign.kind, sign.kind)))

    def finish(self) -> None:
        """Multiplies the weight of each mention by those of the groups around it."""
        factors, noted = [1.0], [False]
        for what, begins in self._events:
            if isinstance(what, Mention):
                what.weight = _limited(factors[-1] * what.weight)
                what.is_noted = noted[-1]
            elif begins:
                factors.append(max(-MAX_WEIGHT, min(MAX_WEIGHT, factors[-1] * what.factor)))
                noted.append(noted[-1] or what.is_noted)
            else:
                factors.pop()
                noted.pop()

    def _begin(self, group: _Group) -> None:
        self._open.append(group)
        self._num_open[group.kind] = self._num_open.get(group.kind, 0) + 1
        self._events.append((group, True))

    def _end(self, kind: str) -> _Group | None:
        """Closes the nearest group of `kind` and those within; None without one."""
        if not self._num_open.get(kind):
            return None
        within = []
        while True:
            group = self._open.pop()
            self._num_open[group.kind] -= 1
            self._events.append((group, False))
            if group.kind == kind:
                break
            within.append(group)
        if group.alternates:
            for number in within:
                number.factor = 1.0  # of the last in `{0.5::a|0.3::b}`
        return group


def _limited(weight: float) -> float:
    """`weight` within the limits and with six digits; 0 and less stay what they are."""
    if weight == 1:
        return 1.0
    return float(f"{min(max(weight, MIN_WEIGHT), MAX_WEIGHT) if weight > 0 else weight:.6g}")
