"""Names of the site of all kinds that hold what prompts use as signs, and every dialect that may write them."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from booru_embed_core.schema import CATEGORIES, Category
from booru_embed_core.tags.tokenizer import Tokenizer
from booru_embed_core.tags.vocab import Vocab

NAMES = {
    Category.GENERAL: (
        "1girl", "solo", "cat_ears", "long_hair", "smile", ":3", ":d", ":o", ":p", ";)", ">:)", ">:(", ":>=", ":<",
        ":/", ":|", "d:", "3:", "o_o", "^_^", ">o<", "<o>_<o>", "<|>_<|>", "|_|", "\\m/", "\\||/", "\\(^o^)/",
        "double_\\m/", "c:", "+_+", "...", "?", "gauss_<bokashi", "m->g", ":>", ">_<", "rating", "and",
        ";d", "d;", ";|", "k+", "7:08", "no_bra", "v-shaped_eyebrows", "t-shirt", "full-length_zipper", "wide-eyed",
    ),
    Category.ARTIST: ("wlop", "ryisu_(deluxe<<<)", "art:ist", "malice<p>white_rabbit", "blackheart`", "lin+", "hi-ho-",
        "sye-", "asai_(00:05)",
        "'o'ne", "lantana0_0", "tony_man+"),
    Category.COPYRIGHT: (
        "overwatch", "fate", "re:zero_kara_hajimeru_isekai_seikatsu", "nier:automata", "reverse:1999",
        "danganronpa_2:_goodbye_despair", "under_night_in-birth_exe:late[st]", "evangelion:_3.0_you_can_(not)_redo",
        "steins;gate", "chaos;child", "kirby_and_the_amazing_mirror", "super_smash_bros.", "9-nine-",
        "phoenix_wright:_ace_attorney_-_justice_for_all", "emotional_engine_-_full_drive",
    ),
    Category.CHARACTER: (
        "tracer_(overwatch)", "00_qan[t]", "rem_(re:zero)", "vertin_(reverse:1999)", "jeanne_d'arc_(ruler)_(fate)",
        "elysia_(herrscher_of_human:_ego)_(honkai_impact)", "2b_(nier:automata)",
        "airi_(robotics;notes)", '"pour_la_justice"_(genshin_impact)', "archer_(fate)_(cosplay)",
    ),
    Category.META: ("highres", "commentary_request"),
}  # fmt: skip
"""Real names of the site, among them all kinds that hold what prompts use as signs."""


def tokenizer_of(names: dict[Category, tuple[str, ...]], **aliases: dict[str, str]) -> Tokenizer:
    tags = tuple(tag for category in CATEGORIES for tag in names.get(category, ()))
    categories = np.repeat(np.arange(5, dtype=np.uint8), [len(names.get(category, ())) for category in CATEGORIES])
    counts = np.arange(len(tags), 0, -1, dtype=np.int64)
    named = {Category(category): tag_of for category, tag_of in aliases.items()}
    return Tokenizer(Vocab(tags, categories, counts, aliases=named))


REAL = tokenizer_of(NAMES)


def spaced(tag: str) -> str:
    return tag.replace("_", " ")


def escaped(tag: str) -> str:
    """As tools for AUTOMATIC1111's web UI, ComfyUI and InvokeAI write it."""
    return re.sub(r"([()\[\]{}\\])", r"\\\1", spaced(tag))


class Dialect(NamedTuple):
    """How a dialect writes a tag beside unknown words that begin with ``qq``, and the weight that it gives it."""

    write: Callable[[str], str]
    weight: float = 1.0
    ambiguous: frozenset[str] = frozenset()
    """Tags that this dialect cannot tell from another reading: ``[:d::0.5]`` is also ``:d``, removed at half."""


DIALECTS = {
    "list": Dialect(lambda tag: f"qqa, {spaced(tag)}, qqb"),
    "one a line": Dialect(lambda tag: f"qqa\n{spaced(tag)}\n"),
    "CRLF": Dialect(lambda tag: f"qqa\r\n{spaced(tag)}\r\nqqb"),
    "tabs": Dialect(lambda tag: f"qqa\t{spaced(tag)}\tqqb"),
    "bullets": Dialect(lambda tag: f"- qqa\n- {spaced(tag)}"),
    "kohya": Dialect(lambda tag: f"qqa ||| {spaced(tag)}, qqb"),
    "full-width commas": Dialect(lambda tag: f"qqa\uff0c{spaced(tag)}\u3001qqb"),
    "full-width brackets": Dialect(lambda tag: f"\uff08{spaced(tag)}\uff1a1.3\uff09\uff0cqqb", 1.3),
    "semicolons": Dialect(lambda tag: f"qqa; {spaced(tag)}; qqb"),
    "quotes": Dialect(lambda tag: f'qqa, "{spaced(tag)}", \u201cqqb\u201d'),
    "full stop": Dialect(lambda tag: f"qqa, {spaced(tag)}."),
    "double backslash": Dialect(lambda tag: f"qqa, {spaced(tag)}".replace("\\", "\\\\")),
    "escaped": Dialect(lambda tag: f"{escaped(tag)}, qqa"),
    "A1111 weight": Dialect(lambda tag: f"({escaped(tag)}:1.3), qqa", 1.3),
    "A1111 weight, spaces": Dialect(lambda tag: f"( {spaced(tag)} : 1.3 ), qqa", 1.3),
    "A1111 weight, unescaped": Dialect(lambda tag: f"({spaced(tag)}:1.3), qqa", 1.3),
    "A1111 weight between words": Dialect(lambda tag: f"qqa ({escaped(tag)}:1.3) qqb", 1.3),
    "A1111 group": Dialect(lambda tag: f"(qqa, {escaped(tag)}, qqb:1.3), qqc", 1.3),
    "A1111 layers": Dialect(lambda tag: f"(({escaped(tag)})), qqa", 1.21),
    "A1111 less": Dialect(lambda tag: f"[{escaped(tag)}], qqa", 0.909091),
    "A1111 alternation": Dialect(lambda tag: f"[{escaped(tag)}|qqa], [qqb|{spaced(tag)}], qqc"),
    "A1111 editing, from": Dialect(lambda tag: f"[{escaped(tag)}:qqa:0.5], qqb"),
    "A1111 editing, to": Dialect(lambda tag: f"[qqa:{escaped(tag)}:5], qqb"),
    "A1111 editing, removed": Dialect(lambda tag: f"[{escaped(tag)}::0.5], qqb"),
    "A1111 editing, added": Dialect(
        lambda tag: f"[:{escaped(tag)}:0.5], [{escaped(tag)}:0.5], qqb", 1.0, frozenset(["d:", "3:", "|_|"])
    ),
    "A1111 AND": Dialect(lambda tag: f"qqa AND {escaped(tag)}, qqb :1.3", 1.3),
    "A1111 infotext": Dialect(lambda tag: f"{escaped(tag)}, qqa\nNegative prompt: solo\nSteps: 20, Sampler: Euler a"),
    "networks": Dialect(lambda tag: f"<lora:x:1>{escaped(tag)} BREAK qqa, embedding:y, __z/*__"),
    "ComfyUI": Dialect(lambda tag: f"qqa, ({escaped(tag)}:0.85), (embedding:x:1.2)", 0.85),
    "NovelAI number": Dialect(lambda tag: f"qqa, 1.3::{spaced(tag)}::, qqb", 1.3),
    "NovelAI group": Dialect(lambda tag: f"qqa, 1.3::qqb, {spaced(tag)} ::, qqc", 1.3),
    "NovelAI open": Dialect(lambda tag: f".5::qqa:: 1.3::{spaced(tag)}, qqc", 1.3),
    "NovelAI braces": Dialect(lambda tag: "{{" + spaced(tag) + "}}, qqa", 1.1025),
    "InvokeAI plus": Dialect(lambda tag: f"qqa, {spaced(tag)}++, ({escaped(tag)})++", 1.21),
    "InvokeAI minus": Dialect(lambda tag: f"({escaped(tag)})--, qqa", 0.81),
    "InvokeAI number": Dialect(lambda tag: f"(qqa, {escaped(tag)})1.3, qqb", 1.3),
    "variants": Dialect(lambda tag: "{" + f"{spaced(tag)}|qqa" + "}, qqb"),
    "variants, several": Dialect(lambda tag: "{2$$qqa|" + spaced(tag) + "}, qqb"),
    "variants, chances": Dialect(
        lambda tag: "{0.5::" + spaced(tag) + "|0.3::qqa}, {0.5::qqb|0.3::" + spaced(tag) + "}"
    ),
    "JSON list": Dialect(lambda tag: '["qqa", "' + tag.replace("\\", "\\\\").replace('"', '\\"') + '"]'),
    "JSON scores": Dialect(
        lambda tag: '{"qqa": 0.9, "' + tag.replace("\\", "\\\\").replace('"', '\\"') + '": 0.83}', 0.83
    ),
}
"""Every way of writing one tag that `docs/reference/captions.md` tells of, beside tags that are not known."""
