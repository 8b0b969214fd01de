"""The query language of post search: captions with signs between them, and the grammar of Danbooru.

    query   = [clauses] { ("+" | "-") clauses }        signs between spaces
    clauses = clause { "or" clause }
    clause  = either { ["and"] either }
    either  = factor { "~" factor }                    a ~ between spaces
    factor  = { "-" | "~" } (word | "(" clauses ")")   signs that touch what they stand before

Words that stand beside no sign form captions, which the caption reader reads. ``docs/guides/search.md`` has the rules.
Reading takes time linear in the length of the text.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from booru_embed_core.embedder.results import UnknownTagsError
from booru_embed_core.errors import shown
from booru_embed_core.search.filters import Either, Every, Filter, HasAny, Not, Order, Within, either, negated
from booru_embed_core.search.metatags import is_metatag, read_metatag, refuse_named_values
from booru_embed_core.search.query import Query, Term, contradictions, rating_filters
from booru_embed_core.search.unknown import LISTED, NOT_STORED, unknown_message
from booru_embed_core.search.words import Kind, Token, is_wildcard, read_words
from booru_embed_core.tags.patterns import matching_tags
from booru_embed_core.tags.tokenizer import Encoded, Tokenizer

_NOTHING_BESIDE_SIGN: Final = "nothing on one side of a sign; write tag - tag + tag, or -tag"
_ORDER_STANDS_ALONE: Final = "an order takes no sign and stands outside of groups; write order:score_asc"
_BULLET: Final = re.compile(r"\s*[-*\u2022][ \t]")
_BULLET_LINE: Final = re.compile(r"\n[ \t]*(?=[-*\u2022][ \t])")
MAX_PATTERNS: Final = 10
"""Each is compared with all tags, and may stand for any number of them."""
_MAX_NAME_TOKENS: Final = 8
"""Words and parentheses that may form one tag after a sign, as in ``-miku (fate)``."""


def as_query(query: Query | str, tokenizer: Tokenizer) -> Query:
    """`query`, read if it is a string; raises as `parse_query`.

    Raises:
        ValueError: also if the query was read for another vocabulary.
    """
    if isinstance(query, str):
        return parse_query(query, tokenizer)
    if query.vocab_hash != tokenizer.vocab.hash:
        raise ValueError(f"{shown(query.text)}: the query was read for another vocabulary; parse it with this model's")
    return query


def parse_query(text: str, tokenizer: Tokenizer) -> Query:
    """The query that `text` spells, for the vocabulary of `tokenizer`.

    Raises:
        UnknownTagsError: a filter names a tag, or a pattern of tags, that the vocabulary does not hold.
        ValueError: a metatag that the index cannot answer or with a wrong value, a sign with nothing on one side, a
            parenthesis without its other half, or too many within each other.
    """
    return _Parser(text, tokenizer).query()


@dataclass
class _Clause:
    """Conditions that hold together; captions and ids become filters only within groups and alternatives."""

    captions: list[Encoded] = field(default_factory=list)
    post_ids: list[int] = field(default_factory=list)
    filters: list[Filter] = field(default_factory=list)
    optional: list[Filter] = field(default_factory=list)
    orders: list[Order] = field(default_factory=list)

    def is_empty(self) -> bool:
        """Whether it says nothing."""
        return not (self.captions or self.post_ids or self.filters or self.optional or self.orders)

    def closed(self) -> _Clause:
        """The clause itself, its optional conditions made one: at least one of them must hold."""
        if self.optional:
            self.filters.append(either(self.optional))
            self.optional = []
        return self

    def add(self, other: _Clause) -> None:
        """Adds all conditions of `other`."""
        self.captions += other.captions
        self.post_ids += other.post_ids
        self.filters += other.filters
        self.orders += other.orders


class _Parser:
    """Reads one query from its first token to its last."""

    def __init__(self, text: str, tokenizer: Tokenizer) -> None:
        self._typed = text
        self._tokenizer = tokenizer
        self._notes: list[str] = []
        self._known: dict[str, bool] = {}
        self._encoded: dict[str, Encoded] = {}
        self._text = self._without_settings(text)
        words = read_words(self._text, self._is_tag)
        self._tokens, self._has_grammar = words.tokens, words.has_grammar
        self._has_separators = any(token.kind is Kind.SEPARATOR for token in self._tokens)
        self._index = 0
        self._after_minus: int | None = None
        """Where the term that is read begins, if a lone minus stands before it."""
        self._depth = 0
        self._patterns: dict[str, Filter] = {}
        self._everywhere = _Clause()
        """What filters and sorts all posts, wherever it stands."""

    def query(self) -> Query:
        """The whole query."""
        if not self._has_grammar:
            made = _Clause(captions=[self._encode(self._text)] if self._text.strip() else [])
            made.filters = [one for caption in made.captions for one in self._filters_within(caption)]
            return self._made([(1, made)])
        clauses: list[tuple[int, _Clause]] = []
        sign = 1
        while True:
            clause = self._clauses()
            token = self._peek()
            if clause.is_empty() and (clauses or token.kind is not Kind.END):
                raise self._error(token, _NOTHING_BESIDE_SIGN)
            clauses.append((sign, clause))
            if token.kind is Kind.END:
                return self._made(clauses)
            self._index += 1
            sign = 1 if token.kind is Kind.PLUS else -1
            self._after_minus = self._index if sign < 0 else None

    def _without_settings(self, text: str) -> str:
        """`text` without networks, settings and the like; a sign that begins a line is a bullet only in a list."""
        lines = [line for line in text.splitlines() if line.strip()]
        if len(lines) < 2 or not all(_BULLET.match(line) for line in lines):
            if _BULLET.match(text):
                raise ValueError(f"{shown(text)}: {_NOTHING_BESIDE_SIGN}")
            text = _BULLET_LINE.sub(" ", text)
        return self._tokenizer.without_settings(text, self._notes)

    def _made(self, clauses: list[tuple[int, _Clause]]) -> Query:
        terms, filters, orders = [], [], []
        for sign, clause in [*clauses, (1, self._everywhere.closed())]:
            filters += clause.filters if sign > 0 else [negated(one) for one in clause.filters]
            orders += clause.orders
            if sign < 0 and clause.orders:
                raise ValueError(f"{shown(self._text)}: {_ORDER_STANDS_ALONE}")
            if clause.captions or clause.post_ids:
                terms.append(Term(sign, tuple(clause.captions), tuple(clause.post_ids)))
        if len(orders) > 1:
            raise ValueError(f"{shown(self._text)}: has {len(orders)} orders; leave one")
        vocab, order = self._tokenizer.vocab, orders[0] if orders else None
        for _, tag in self._tokenizer.decode(contradictions(terms, filters, vocab.num_special)):
            self._notes.append(f"{tag}: asked for and excluded; no post has it")
        return Query(tuple(terms), tuple(filters), order, tuple(dict.fromkeys(self._notes)), self._typed, vocab.hash)

    def _clauses(self) -> _Clause:
        """Clauses with ``or`` between them; a single one as it is."""
        first = self._clause()
        if self._peek().kind is not Kind.OR:
            return first
        alternatives = [first]
        while self._peek().kind is Kind.OR:
            token = self._next()
            alternatives.append(self._clause())
            if alternatives[-2].is_empty() or alternatives[-1].is_empty():
                raise self._error(token, "nothing on one side of this; write a or b")
        return _Clause(filters=[Either(tuple(self._filter_of(one) for one in alternatives))])

    def _clause(self) -> _Clause:
        """All that stands together up to an ``or``, a lone sign, or the end of the group."""
        made, words = _Clause(), list[Token]()
        while (token := self._peek()).kind not in (Kind.OR, Kind.PLUS, Kind.MINUS, Kind.CLOSE, Kind.END):
            is_caption = token.kind in (Kind.TEXT, Kind.SEPARATOR) or (
                token.kind is Kind.WORD and not self._is_filter(token) and not self._before_tilde()
            )
            if is_caption:
                words.append(self._next())
                continue
            self._add_caption(made, words)
            words = []
            if token.kind is Kind.AND:
                self._index += 1
                if made.is_empty() or self._peek().kind in (Kind.OR, Kind.AND, Kind.CLOSE, Kind.END):
                    raise self._error(token, "nothing on one side of this; write a and b")
            else:
                self._add_factor(made)
        self._add_caption(made, words)
        return made.closed()

    def _add_factor(self, made: _Clause) -> None:
        """Reads a factor, and those that a ``~`` joins to it, into `made`."""
        token = self._peek()
        if self._is_everywhere(token):
            made = self._everywhere
        if token.kind is Kind.OPEN:
            group = self._group()
            is_subtracted = self._after_minus is not None and not self._depth
            if self._peek().kind is not Kind.TILDE and not (is_subtracted and group.filters):
                made.add(group)
                return
            found = self._filter_of(group)
        elif token.kind is Kind.TILDE:
            raise self._error(token, "nothing on one side of ~; write ( a ~ b ), or ~a ~b")
        elif token.kind is Kind.WORD and is_metatag(self._word(token), self._is_tag):
            metatag = read_metatag(self._word(self._next()))
            if isinstance(metatag, Order):
                if self._peek().kind is Kind.TILDE:
                    raise self._error(token, _ORDER_STANDS_ALONE)
                made.orders.append(metatag)
                return
            post_id = metatag.single() if isinstance(metatag, Within) and metatag.column == "post_id" else None
            if post_id is not None and self._peek().kind is not Kind.TILDE:
                made.post_ids.append(post_id)
                return
            found = metatag
        else:
            found = self._factor()
        alternatives = [found]
        while self._peek().kind is Kind.TILDE:
            self._index += 1
            alternatives.append(self._factor())
        (made.optional if token.kind is Kind.OPTIONAL else made.filters).append(either(alternatives))

    def _is_everywhere(self, token: Token) -> bool:
        """Whether the lone minus before this term leaves `token` alone.

        It subtracts captions, and what directly follows it: ``hat - rating:e``, but ``hat - solo rating:g``.
        """
        if self._after_minus in (None, self._index) or self._depth:
            return False
        return token.kind in (Kind.NOT, Kind.OPTIONAL) or (token.kind is Kind.WORD and self._is_metatag(token))

    def _factor(self) -> Filter:
        """The filter of a word or a group, with the signs before it."""
        is_negated = False
        first = self._peek()
        while (token := self._peek()).kind in (Kind.NOT, Kind.OPTIONAL):
            is_negated ^= token.kind is Kind.NOT
            self._index += 1
        if token.kind is Kind.OPEN:
            found = self._filter_of(self._group())
        elif token.kind is not Kind.WORD:
            raise self._error(first, "nothing stands after this sign; write -tag, ~tag or ( a ~ b )")
        elif is_metatag(self._word(token), self._is_tag):
            metatag = read_metatag(self._word(self._next()))
            if isinstance(metatag, Order):
                raise self._error(token, _ORDER_STANDS_ALONE)
            found = metatag
        elif is_wildcard(self._word(token), self._is_tag):
            found = self._pattern()
        else:
            found = self._named(self._name())
        return negated(found) if is_negated else found

    def _group(self) -> _Clause:
        """What stands between two parentheses."""
        opened = self._next()
        self._depth += 1
        found = self._clauses()
        self._depth -= 1
        token = self._next()
        if token.kind is not Kind.CLOSE:
            raise self._error(token, "signs with spaces around them stand outside of parentheses; write -tag")
        if found.is_empty():
            raise self._error(opened, "nothing between these parentheses; leave them out")
        return found

    def _filter_of(self, clause: _Clause) -> Filter:
        """The filter of a clause within a group or beside an ``or``."""
        if clause.orders:
            raise ValueError(f"{shown(self._text)}: {_ORDER_STANDS_ALONE}")
        found: list[Filter] = [one for caption in clause.captions for one in self._tags_of(caption)]
        found += [Within("post_id", ((post_id, post_id),)) for post_id in clause.post_ids]
        found += clause.filters
        return found[0] if len(found) == 1 else Every(tuple(found))

    def _named(self, name: str) -> Filter:
        """The filter of the tags that `name` names."""
        encoded = self._encode(name)
        found = [*self._tags_of(encoded, name), *rating_filters(encoded)]
        if not found:
            raise ValueError(f"{name!r}: no tag that posts could have or not; leave it out")
        return found[0] if len(found) == 1 else Every(tuple(found))

    def _tags_of(self, caption: Encoded, name: str | None = None) -> list[Filter]:
        """A filter for each tag of `caption`."""
        if caption.unknown:
            what = shown(self._text if name is None else name)
            raise UnknownTagsError(unknown_message(self._tokenizer, what, caption.unknown, NOT_STORED))
        if any(weight != 1 for weight in caption.weights):
            self._notes.append(f"{name or shown(self._text)}: a filter has no weights; they are left out")
        return self._having(caption.token_ids)

    def _pattern(self) -> Filter:
        """The filter of a pattern: any tag that it matches; in a text with commas, up to the next one."""
        words = [self._word(self._next())]
        while self._has_separators and self._peek().kind is Kind.WORD and not self._is_metatag(self._peek()):
            words.append(self._word(self._next()))
        pattern = "_".join(words)
        if pattern not in self._patterns:
            if len(self._patterns) == MAX_PATTERNS:
                raise ValueError(f"{shown(self._text)}: has more than {MAX_PATTERNS} patterns; leave some out")
            tags = matching_tags(self._tokenizer, pattern)
            if not tags:
                raise UnknownTagsError(f"{shown(pattern)}: no tag of the vocabulary is like this; {LISTED}")
            self._patterns[pattern] = HasAny(tuple(tags))
        return self._patterns[pattern]

    def _name(self) -> str:
        """The name of a tag after a sign: the longest run of words that is one, where it is needed; else one word.

        In a text with commas spaces belong to names; in any other, only where a word of the run is no tag itself.
        """
        run = self._run()
        for length in range(len(run), 1, -1):
            if self._is_name(run[:length]):
                break
        else:
            words = [token for token in run if token.kind is Kind.WORD]
            is_piece = self._has_separators and words == run and not self._is_tag(self._word(run[0]))
            length = len(run) if is_piece else 1
        if length > 1 and not self._has_separators:
            self._notes.append(f"{self._text[run[0].start : run[length - 1].end]}: read as one tag")
        self._index += length
        return self._joined(run[:length])

    def _run(self) -> list[Token]:
        """The next words, and parentheses that group nothing, as many as a name may have."""
        run = list[Token]()
        for token in self._tokens[self._index : self._index + _MAX_NAME_TOKENS]:
            if token.kind is not Kind.TEXT and (token.kind is not Kind.WORD or self._is_filter(token)):
                break
            run.append(token)
        return run

    def _is_name(self, run: list[Token]) -> bool:
        return self._is_tag(self._joined(run)) and (
            self._has_separators or not all(self._is_tag(self._word(one)) for one in run if one.kind is Kind.WORD)
        )

    def _before_tilde(self) -> bool:
        """Whether the next word, or the next words as one name, stand before a lone ``~``."""
        run = self._run()
        after = self._tokens[self._index + len(run)]
        return after.kind is Kind.TILDE and (len(run) == 1 or self._is_name(run))

    def _joined(self, run: list[Token]) -> str:
        return "_".join(self._text[run[0].start : run[-1].end].split())

    def _add_caption(self, made: _Clause, words: list[Token]) -> None:
        if all(token.kind is Kind.SEPARATOR for token in words):
            return
        caption = self._encode(self._text[words[0].start : words[-1].end] + "," * self._has_separators)
        made.captions.append(caption)
        made.filters += self._filters_within(caption)

    def _filters_within(self, caption: Encoded) -> list[Filter]:
        """The filters that a caption holds: its ratings, and the tags with a weight of 0 or less, which exclude."""
        self._notes += [f"{tag}: excluded" for _, tag in self._tokenizer.decode(caption.excluded)]
        return [*rating_filters(caption), *map(Not, self._having(caption.excluded))]

    def _having(self, token_ids: Iterable[int]) -> list[Filter]:
        return [HasAny((token_id - self._tokenizer.vocab.num_special,)) for token_id in token_ids]

    def _encode(self, text: str) -> Encoded:
        encoded = self._encoded.get(text) or self._tokenizer.encode(text)
        self._encoded[text] = encoded
        refuse_named_values(encoded.unknown)
        self._notes += encoded.notes
        return encoded

    def _is_tag(self, word: str) -> bool:
        if word not in self._known:
            self._known[word] = self._tokenizer.tag_named(word) is not None
        return self._known[word]

    def _is_metatag(self, token: Token) -> bool:
        return is_metatag(self._word(token), self._is_tag)

    def _is_filter(self, token: Token) -> bool:
        return self._is_metatag(token) or is_wildcard(self._word(token), self._is_tag)

    def _word(self, token: Token) -> str:
        return self._text[token.start : token.end]

    def _peek(self) -> Token:
        return self._tokens[self._index]

    def _next(self) -> Token:
        token = self._tokens[self._index]
        self._index += token.kind is not Kind.END
        return token

    def _error(self, token: Token, problem: str) -> ValueError:
        where = shown(self._text) if token.kind is Kind.END else shown(self._text[token.start :])
        return ValueError(f"{where}: {problem}")
