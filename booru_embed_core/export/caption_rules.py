r"""The ``tokenizer.json`` of the sentence-transformers export: rules of the library ``tokenizers`` that read captions.

They know fewer spellings than `Tokenizer.encode`, but what both know they read alike; ``docs/guides/export.md`` lists
them. A vocabulary entry is a comma and a tag, since the text is cut before commas:

    1Girl, cat ears,longhair   →   ,1girl,cat_ears,longhair   →   ,1girl,cat_ears,long_hair   →   three entries

**Aliases** are no entries: the format keeps one name per id, so they would be lost when the model is saved again, and
with rows of their own they would move away from their tags in fine-tuning. A rule for each would take 5 µs of every
caption. So 3 r rules, with r the cube root of the number of tags that have aliases, write three signs before an alias,
the digits of its tag's number to the base r. Then the alias is dropped and one rule turns the signs into the tag:

    ,longhair   →   ,c◌̀◌́longhair   →   ,c◌̀◌́   →   ,long_hair
"""

from __future__ import annotations

import base64
import itertools
import re
import string
import struct
from collections.abc import Collection, Iterable, Mapping
from typing import Any, Final

from booru_embed_core.model.encoder import SUMMARY_ID
from booru_embed_core.schema import CATEGORIES, PAD_TOKEN, SPECIAL_TOKENS
from booru_embed_core.tags.normalize import PREFIXES
from booru_embed_core.tags.tokenizer import Tokenizer
from booru_embed_core.tags.vocab import Vocab

_PRIVATE: Final = "\ue000"
"""First character of entries that no text gives: a private character of Unicode, which no tag contains."""
PAD_ENTRY: Final = _PRIVATE + PAD_TOKEN
_BRACKETS: Final = "()[]{}"
_LETTERS: Final = string.ascii_letters
_MARKS: Final = "".join(map(chr, range(0x300, 0x340)))
"""Combining marks: ``Precompiled`` replaces a letter and its marks as a whole if they have at most five bytes."""
_BLOCK: Final = 256
_WIDE_COMMAS: Final = "\uff0c\u3001\u3002\uff64\uff61"
_END: Final = ""
"""The key of a trie that ends a word."""


def tokenizer_json(vocab: Vocab) -> dict[str, Any]:
    """The ``tokenizer.json`` that reads captions as people type them, as far as the rules of ``tokenizers`` allow.

    Unknown tags are left out: they fall to single characters, which the vocabulary lacks, since every entry is longer
    and begins with a comma. Every id has one entry, so that the library saves and extends the vocabulary as it is.

    Raises:
        ValueError: more than 140,608 tags have aliases.
    """
    tokenizer = Tokenizer(vocab)
    ids = {_PRIVATE + token: token_id for token_id, token in enumerate(SPECIAL_TOKENS)}
    for tag_index, spelling in enumerate(tokenizer.spellings):
        # Of tags that differ only in case, the first has the entry that text gives.
        is_named = not vocab.is_unknown[tag_index] and _entry(spelling) not in ids
        ids[_entry(spelling) if is_named else _PRIVATE + spelling] = vocab.num_special + tag_index
    entry_of = {token_id: entry for entry, token_id in ids.items()}
    aliases = {
        entry[1:]: entry_of[token_id][1:]
        for alias, token_id in tokenizer.aliases.items()
        if (entry := _entry(alias)) not in ids and "," not in alias and not any(map(str.isspace, alias))
    }
    summary = _PRIVATE + SPECIAL_TOKENS[SUMMARY_ID]
    first = [{"SpecialToken": {"id": summary, "type_id": 0}}]
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [],
        "normalizer": {"type": "Sequence", "normalizers": _normalizers([entry[1:] for entry in ids], aliases)},
        "pre_tokenizer": {"type": "Split", "pattern": {"String": ","}, "behavior": "MergedWithNext", "invert": False},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [*first, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [*first, {"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
            "special_tokens": {summary: {"id": summary, "ids": [SUMMARY_ID], "tokens": [summary]}},
        },
        "decoder": None,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": "##",
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": True,  # a whole entry is one token
            "vocab": ids,
            "merges": [],
        },
    }


def _entry(spelling: str) -> str:
    """The vocabulary entry that the rules turn `spelling` into."""
    for bracket in _BRACKETS:
        spelling = spelling.replace("\\" + bracket, bracket)
    return "," + spelling.lower()


def _normalizers(names: Collection[str], aliases: Mapping[str, str]) -> list[dict[str, Any]]:
    """The rules, in their order.

    Args:
        names: entries without their comma.
        aliases: the name that each alias stands for.
    """
    prefixes = {short: CATEGORIES[category_id].value for short, category_id in PREFIXES.items()}
    letters = set("".join([*names, *aliases]))
    named = [name for name in (*names, *aliases) if name.partition(":")[0] in prefixes]
    not_a_tag = f"(?!(?:{'|'.join(map(re.escape, named))})(?:,|\\z))" if named else ""
    return [
        {"type": "Lowercase"},
        *({"type": "Replace", "pattern": {"String": "\\" + bracket}, "content": bracket} for bracket in _BRACKETS),
        *_separators(letters),
        _replace(r"\s*[,\n][\s,]*", ","),
        _replace(r"\A\s+|\s+\z", ""),
        _replace(r"\A[^,]*,[\s\S]*\K\z", ","),  # adds a final comma to a caption with commas, for the next rule
        _replace(r"\s+(?=[\s\S]*,)", "_"),
        _replace(r"\s+", ","),
        {"type": "Prepend", "prepend": ","},
        *(_replace(f"(?<=,){short}:", f"{category}:") for short, category in prefixes.items() if short != category),
        _replace(f"(?<=,){not_a_tag}(?:{'|'.join(CATEGORIES)}):_*", ""),
        *(_alias_rules(aliases, letters) if aliases else []),
        _replace(r"(?<=,)([^,]+),(?=(?:[^,]*,)*\1(?:,|\z))", ""),  # a tag that follows again
    ]


def _separators(letters: Collection[str]) -> list[dict[str, Any]]:
    """The rule that turns ``|||`` and other scripts' commas and full stops into commas, unless `letters` hold them."""
    signs = [sign for sign in _WIDE_COMMAS if sign not in letters]
    signs += [] if "|" in letters else [r"\|{3}"]
    return [_replace("|".join(signs), ",")] if signs else []


def _replace(pattern: str, content: str) -> dict[str, Any]:
    return {"type": "Replace", "pattern": {"Regex": pattern}, "content": content}


def _alias_rules(aliases: Mapping[str, str], letters: Collection[str]) -> list[dict[str, Any]]:
    """The rules that turn each alias into the name that it stands for; see the top of the module.

    Args:
        aliases: the name that each stands for.
        letters: all that occur in tags and aliases.

    Raises:
        ValueError: they stand for more names than the signs can number.
    """
    names = list(dict.fromkeys(aliases.values()))
    marks = [mark for mark in _MARKS if mark not in letters]
    most = min(len(_LETTERS), len(marks))
    base = next((base for base in range(1, most + 1) if base**3 >= len(names)), 0)
    if not base:
        raise ValueError(f"{len(names):,} tags have aliases, more than the {most**3:,} that this format holds")
    digits = (list(_LETTERS[:base]), marks[:base], marks[:base])
    signs_of = dict(zip(names, itertools.product(*digits), strict=False))
    any_mark = f"[{''.join(marks[:base])}]"
    rules = [_replace(any_mark, _PRIVATE)]
    for place in (2, 1, 0):  # each sign is written before the last one
        of_sign: dict[str, list[str]] = {}
        for alias, name in aliases.items():
            of_sign.setdefault(signs_of[name][place], []).append(alias)
        signs = any_mark * (2 - place)
        rules += [_replace(rf",\K(?={signs}{_any_of(some)}(?:,|\z))", sign) for sign, some in of_sign.items()]
    rules.append(_replace(f"(?<={any_mark * 2})[^,]+", ""))
    charsmap = _charsmap({"".join(signs): name for name, signs in signs_of.items()})
    return [*rules, {"type": "Precompiled", "precompiled_charsmap": base64.b64encode(charsmap).decode()}]


def _any_of(words: Iterable[str]) -> str:
    """A regular expression for any of `words`, as a trie: the time of a match does not grow with their number."""
    trie: dict[str, Any] = {}
    for word in words:
        node = trie
        for character in word:
            node = node.setdefault(character, {})
        node[_END] = {}
    return _pattern(trie)


def _pattern(trie: Mapping[str, Any]) -> str:
    literal = ""
    while len(trie) == 1 and _END not in trie:  # a chain of letters, without a group for each
        ((character, trie),) = trie.items()
        literal += re.escape(character)
    branches = [re.escape(character) + _pattern(rest) for character, rest in trie.items() if character != _END]
    if not branches:
        return literal
    return f"{literal}(?:{'|'.join(branches)}){'?' if _END in trie else ''}"


def _charsmap(texts: Mapping[str, str]) -> bytes:
    """The map of SentencePiece's ``Precompiled`` that replaces each key by its text; no key begins another.

    That is the size in bytes of a double array (Aoe 1989), the array, and the texts, each ended by a zero byte. Each
    node has a block of 256 units here, and the unit of a byte is at the exclusive or of the block's index and the byte.
    It holds the byte, whether a key ends there (bit 8), and the exclusive or of its own index and that of its node's
    block, or of the unit with the text's start (from bit 10). Bit 31 marks the start of a text.
    """
    trie: dict[int, Any] = {}
    content = b""
    for key, text in texts.items():
        *path, last = key.encode()
        node = trie
        for byte in path:
            node = node.setdefault(byte, {})
        node[last] = len(content)
        content += text.encode() + b"\0"
    units = [0] * _BLOCK
    waiting: list[tuple[int, dict[int, Any]]] = [(0, trie)]
    free = 0
    while waiting:
        index, node = waiting.pop()
        block = len(units)
        units += [0] * _BLOCK
        units[index] |= (index ^ block) << 10
        for byte, child in node.items():
            units[block ^ byte] = byte
            if not isinstance(child, int):
                waiting.append((block ^ byte, child))
                continue
            if free % _BLOCK == 0:  # texts' starts share blocks
                free = len(units)
                units += [0] * _BLOCK
            units[block ^ byte] |= 1 << 8 | (block ^ byte ^ free) << 10
            units[free] = child | 1 << 31
            free += 1
    assert len(units) <= 1 << 21  # larger numbers need another form of bits 9 to 31
    array = struct.pack(f"<{len(units)}I", *units)
    return struct.pack("<I", len(array)) + array + content
