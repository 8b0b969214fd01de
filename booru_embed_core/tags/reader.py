"""Reads captions as people write them: the tags that they name, with weights, and notes on how they were read.

``docs/reference/captions.md`` has all rules. The steps: `dialects` takes out what names no tag, `pieces` cuts the rest,
each piece is looked up by `names`, and `emphasis` multiplies weights. Where spaces separate tags, a run of words is one
tag if one of its words is none by itself:

    1girl cat ears hat   →   1girl, cat_ears, hat   though `cat` is a tag, because `ears` is none
"""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass, field
from functools import cached_property
from typing import Final, NamedTuple

from booru_embed_core.errors import shortened
from booru_embed_core.tags.dialects import without_settings
from booru_embed_core.tags.emphasis import Emphasis, Mention
from booru_embed_core.tags.names import LONGEST_RUN, Found, TagNames
from booru_embed_core.tags.normalize import OPENING, Signs, joined
from booru_embed_core.tags.pieces import KnownNames, PieceCutter
from booru_embed_core.tags.variants import completed

_WORD: Final = re.compile(r"\S+")
_LONGEST_GROUP: Final = 300
_ONLY_BRACKETS: Final = re.compile(r"[\s()\[\]{}|]*\Z")
_PART_OF_STEPS: Final = re.compile(r"\[\s*:[^|]*:[^:|]*\]\Z|[^|]*::[^:|]*\]\Z", re.DOTALL)


_NO_SIGNS: Final = Signs.of("")


class _Match(NamedTuple):
    """What a part of a text names: how many of its signs stand around the name, and the tag or rating, if any."""

    signs: Signs
    num_opens: int
    num_closes: int
    found: Found | None


class _Run(NamedTuple):
    """Words of a text that are read together."""

    start: int
    end: int
    match: _Match


class _Word(NamedTuple):
    """A word by itself."""

    match: _Match
    is_tag: bool
    """Whether it is a tag by its own name."""


@dataclass
class Reading:
    """How a text was read, in the order of the text.

    Attributes:
        mentions: of tags and ratings, with their weights.
        unknown: names that are none.
        notes: what was read differently from its spelling.
    """

    mentions: list[Mention]
    unknown: list[str]
    notes: list[str]


class CaptionReader:
    """Reads captions by the names of one vocabulary. Threads may share an instance."""

    def __init__(self, names: TagNames) -> None:
        self.names = names

    def read(self, text: str) -> Reading:
        """How `text` is read; any text can be, in time linear in its length."""
        notes: list[str] = []
        text = completed(without_settings(text, self.names.ids, notes), self._is_bare_name, notes)
        cut = self._cutter.cut(text, KnownNames(self._is_bare_name, self._is_name), notes)
        is_prompt = cut.is_list or len(cut.pieces) > 1 or bool(notes)
        reader = _TextReader(self.names, text, cut.is_list, is_prompt)
        for piece in cut.pieces:
            reader.emphasis.separate(piece.before)
            reader.read_piece(piece.start, piece.end, piece.weight)
        return reader.finish(notes)

    @cached_property
    def _cutter(self) -> PieceCutter:
        return PieceCutter(self.names.names(), self.names.ids)

    def _is_bare_name(self, text: str) -> bool:
        return self.names.find(text.strip()) is not None

    def _is_name(self, text: str) -> bool:
        text = text.strip()
        return _match(self.names, text).found is not None


def _match(names: TagNames, piece: str) -> _Match:
    """The tag that `piece` names, with as few signs around it removed as possible."""
    signs = Signs.of(piece)
    for num_opens, num_closes in signs.removals():
        name = piece[signs.starts[num_opens] : signs.ends[num_closes]].strip()
        found = names.find(name) if 0 < len(name) <= names.longest_name else None
        if found is not None:
            return _Match(signs, num_opens, num_closes, found)
    return _Match(signs, *signs.enclosed(piece), None)


@dataclass
class _TextReader:
    """One text while it is read."""

    names: TagNames
    text: str
    is_list: bool
    """Whether commas or the like separate tags: a piece with unknown words is taken as one tag."""
    is_prompt: bool
    """Whether more than spaces separate tags: a piece that is a tag is one, whatever its words are."""
    emphasis: Emphasis = field(default_factory=Emphasis)
    _mentions: list[Mention] = field(default_factory=list)
    _unknown: list[str] = field(default_factory=list)
    _notes: list[str | Mention] = field(default_factory=list)
    _joined: list[str] = field(default_factory=list)
    _words: dict[str, _Word] = field(default_factory=dict)

    def read_piece(self, start: int, end: int, weight: float) -> None:
        """Reads the piece ``text[start:end]``: one tag, several, or none."""
        piece = self.text[start:end]
        start += len(piece) - len(piece.lstrip())
        piece = piece.strip()
        end = start + len(piece)
        token_id = self.names.ids.get(piece)
        if token_id is None and self.is_prompt:
            token_id = self.names.ids.get(joined(piece))
        if token_id is not None:  # the common case: what follows takes several times as long
            self._mention(piece, Found(token_id), has_signs=False, weight=weight)
            return
        spans = [(start + word.start(), start + word.end()) for word in _WORD.finditer(piece)]
        is_whole = len(spans) == 1 or self.is_prompt or piece[0] in OPENING
        whole = _Run(start, end, _match(self.names, piece)) if is_whole else None
        if whole is not None and (whole.match.found is not None or len(spans) == 1):
            self._add(whole, weight)
            return
        runs = self._runs(spans)
        num_known = sum(run.match.found is not None for run in runs)
        if self.is_list and num_known < len(runs) and num_known < 2:
            assert whole is not None
            self._add(whole, weight)
            return
        for run in runs:
            if run.match.signs is _NO_SIGNS and run.match.found is not None:
                self._mention(self.text[run.start : run.end], run.match.found, has_signs=False, weight=weight)
                continue
            self._add(run, weight)
            words = self.text[run.start : run.end].split()
            if run.match.found is not None and not run.match.num_opens + run.match.num_closes and len(words) > 1:
                self._joined.append(" ".join(words))

    def finish(self, notes: list[str]) -> Reading:
        """The reading, with `notes` before its own."""
        self.emphasis.finish()
        if self._joined:
            notes.append(f"read as one tag each: {', '.join(dict.fromkeys(self._joined))}")
        for note in self._notes:
            notes += note.notes() if isinstance(note, Mention) else [note]
        return Reading(self._mentions, self._unknown, notes)

    def _runs(self, spans: list[tuple[int, int]]) -> list[_Run]:
        """Words at `spans` in runs, of which the fewest are unknown; several words only where one of them is no tag."""
        words = [self._word(self.text[start:end]) for start, end in spans]
        num_words = len(words)
        num_others = [0, *itertools.accumulate(not word.is_tag for word in words)]
        num_unknown = [0] * (num_words + 1)
        chosen: list[_Run | None] = [None] * num_words
        for index in range(num_words - 1, -1, -1):
            best = num_unknown[index + 1] + (words[index].match.found is None)
            for num in range(self._longest_run(index, spans, words, num_others), 1, -1):  # of equal runs the longest
                if num_unknown[index + num] > best - (chosen[index] is not None):
                    continue
                last = index + num - 1
                has_signs = words[index].match.signs.opens and words[last].match.signs.closes
                if num_others[last + 1] == num_others[index] and not has_signs:
                    continue
                match = _match(self.names, self.text[spans[index][0] : spans[last][1]])
                is_needed = num_others[last + 1] > num_others[index] or match.num_opens * match.num_closes
                if match.found is not None and is_needed:
                    best, chosen[index] = num_unknown[index + num], _Run(spans[index][0], spans[last][1], match)
            num_unknown[index] = best
        runs, end = [], -1
        for (start, word_end), word, several in zip(spans, words, chosen, strict=True):
            if start >= end:
                run = several or _Run(start, word_end, word.match)
                runs.append(run)
                end = run.end
        return runs

    def _longest_run(self, index: int, spans: list[tuple[int, int]], words: list[_Word], num_others: list[int]) -> int:
        """The most words of a tag that begins with the word at `index`; 1 if all that follow are tags themselves."""
        reach = min(len(words), index + LONGEST_RUN)
        starts = words[index].match.signs.starts
        if num_others[reach] == num_others[index] and len(starts) == 1:
            return 1
        word = self.text[slice(*spans[index])]
        return min(reach - index, max(self.names.longest_run(word[start:]) for start in starts[-5:]))

    def _word(self, text: str) -> _Word:
        if text not in self._words:
            token_id = self.names.ids.get(text)  # the common case, without a look for signs
            match = _match(self.names, text) if token_id is None else _Match(_NO_SIGNS, 0, 0, Found(token_id))
            has_signs = bool(match.num_opens or match.num_closes)
            is_tag = match.found is not None and match.found.note is None and not has_signs
            self._words[text] = _Word(match, is_tag)
        return self._words[text]

    def _add(self, run: _Run, weight: float) -> None:
        """Adds what `run` names, known or not, within its signs."""
        signs, num_opens, num_closes, found = run.match
        typed = self.text[run.start : run.end]
        opens, closes = signs.opens[:num_opens], signs.closes[:num_closes][::-1]
        weight *= self.emphasis.open(opens, [run.start + start for start in signs.starts[:num_opens]])
        mention = None
        if found is not None:
            mention = self._mention(typed, found, has_signs=bool(opens or closes), weight=weight)
        elif not _ONLY_BRACKETS.match(typed):
            has_name = typed[signs.starts[num_opens] : signs.ends[num_closes]].strip()
            if has_name or not any(map(self.emphasis.is_closed_by, closes)):
                self._unknown.append(signs.bare(typed))
        own, alternatives = self.emphasis.close(closes, [run.start + end for end in signs.ends[:num_closes]][::-1])
        if mention is not None:
            mention.weight *= own
        for start, end, alternates in alternatives:
            group = self.text[start : min(end, start + _LONGEST_GROUP)]
            is_one = not alternates or _PART_OF_STEPS.match(group)
            what = "used for a part of the steps; taken" if is_one else "they alternate; each known one is taken"
            self._notes.append(f"{shortened(group)}: {what}")

    def _mention(self, typed: str, found: Found, *, has_signs: bool, weight: float) -> Mention:
        name = self.names.tag(found.token_id) if found.token_id is not None else f"rating:{found.rating}"
        mention = Mention(typed, found.token_id, found.rating, name, has_signs, found.note, weight)
        self._mentions.append(mention)
        self._notes.append(mention)
        self.emphasis.mention(mention)
        return mention
