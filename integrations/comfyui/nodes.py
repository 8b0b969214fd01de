"""The nodes, by ComfyUI's documented interface of classes. An error of the library is the node's error, in one line."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, ClassVar, Final

from booru_embed_core import BooruEmbedder
from booru_embed_core.embedder.results import (
    DEFAULT_TEMPERATURE,
    MAX_FILL_TAGS,
    MAX_SEED,
    MAX_TEMPERATURE,
    Normalized,
    UnknownTagsWarning,
)
from booru_embed_core.schema import CATEGORIES, RATINGS
from booru_embed_core.tags.prompts import DIALECTS, as_prompt

from .checkpoints import loaded, resolved
from .conditioning import conditioning, read_adapter

Inputs = dict[str, dict[str, tuple[Any, ...]]]

MODEL: Final = "BOORU_EMBED"
ALL: Final = "all"
WITHHELD: Final = "withheld"
_MAX_TAGS: Final = 1000
_WHOLE_NUMBER: Final = re.compile(r"[-+]?\d{1,9}", re.ASCII)

_CAPTION: Final = (
    "STRING",
    {"multiline": True, "dynamicPrompts": False, "default": "", "tooltip": "Tags, between commas or spaces."},
)
_TEXT: Final = ("STRING", {"default": "", "dynamicPrompts": False})
_CATEGORY: Final = ([ALL, *(category.value for category in CATEGORIES)],)
_DIALECT: Final = ([*DIALECTS], {"default": "comfyui", "tooltip": "Program that the prompt is for."})
_IMPLIED: Final = (
    ["drop", "keep"],
    {"tooltip": "Drop or keep tags that others imply, such as hat from witch_hat."},
)
_BAN: Final = (
    "STRING",
    {"default": "", "dynamicPrompts": False, "tooltip": "Never these tags, nor any that matches, as *_hair."},
)


class _Node:
    """What all nodes share."""

    CATEGORY = "booru-embed"
    FUNCTION = "run"


class LoadCheckpoint(_Node):
    """Loads a checkpoint, on the CPU."""

    DESCRIPTION = "Loads a checkpoint of booru-embed, on the CPU."
    RETURN_TYPES = (MODEL,)
    RETURN_NAMES = ("model",)

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:  # noqa: N802  # ComfyUI's name, as below
        tip = "A folder, or the name of one in models/booru_embed; empty for the only one there."
        return {"required": {"checkpoint": ("STRING", {"default": "", "dynamicPrompts": False, "tooltip": tip})}}

    @classmethod
    def IS_CHANGED(cls, checkpoint: str) -> str:  # noqa: N802
        """Another text after each new training, whose checkpoint has the same name."""
        return str(resolved(checkpoint))

    def run(self, checkpoint: str) -> tuple[BooruEmbedder]:
        return (loaded(resolved(checkpoint)),)


class Complete(_Node):
    """The most probable further tags."""

    DESCRIPTION = "The most probable further tags of a caption."
    RETURN_TYPES = ("STRING", "STRING", "STRING", "STRING")
    RETURN_NAMES = ("prompt", "tags", "table", "notes")
    OUTPUT_TOOLTIPS: ClassVar = (
        "The caption with the further tags.",
        "The further tags alone.",
        "A line for each further tag: its share, category and name.",
        "How the caption was read.",
    )

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:  # noqa: N802
        return {
            "required": {
                "model": (MODEL,),
                "caption": _CAPTION,
                "k": ("INT", {"default": 10, "min": 1, "max": _MAX_TAGS}),
                "category": _CATEGORY,
                "implied": _IMPLIED,
                "ban": _BAN,
                "dialect": _DIALECT,
            }
        }

    def run(
        self, model: BooruEmbedder, caption: str, k: int, category: str, implied: str, ban: str, dialect: str
    ) -> tuple[str, str, str, str]:
        with _unknown_in_notes():
            found = model.complete(caption, k, _category(category), implied=implied, banned=_listed(ban))  # type: ignore[arg-type]
        read = model.normalize(caption)
        spellings = _spelled(model, [(one.category, one.tag) for one in found])
        table = [f"{one.probability:7.2%}  {one.category.value:<9}  {one.tag}" for one in found]
        prompt = _prompt(read, spellings, dialect)
        return prompt, as_prompt(spellings, dialect), "\n".join(table), _notes(read)


class Fill(_Node):
    """A caption with further tags drawn for it."""

    DESCRIPTION = "Draws further tags for a caption, one after another; the same seed, the same tags."
    RETURN_TYPES = ("STRING", "STRING", "STRING")
    RETURN_NAMES = ("prompt", "tags", "notes")
    OUTPUT_TOOLTIPS: ClassVar = (
        "The caption with the drawn tags.",
        "The drawn tags alone.",
        "How the caption was read.",
    )

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:  # noqa: N802
        temperature = {"default": DEFAULT_TEMPERATURE, "min": 0.0, "max": MAX_TEMPERATURE, "step": 0.05}
        return {
            "required": {
                "model": (MODEL,),
                "caption": _CAPTION,
                "n": ("INT", {"default": 20, "min": 0, "max": MAX_FILL_TAGS}),
                "temperature": ("FLOAT", temperature | {"tooltip": "0 takes the most probable tag each time."}),
                "seed": ("INT", {"default": 0, "min": 0, "max": MAX_SEED, "control_after_generate": True}),
                "categories": (*_TEXT[:1], _TEXT[1] | {"tooltip": "Only these, such as general, character."}),
                "limits": (*_TEXT[:1], _TEXT[1] | {"tooltip": "The most tags of a category, such as artist=0."}),
                "implied": _IMPLIED,
                "ban": _BAN,
                "dialect": _DIALECT,
            }
        }

    def run(
        self,
        model: BooruEmbedder,
        caption: str,
        n: int,
        temperature: float,
        seed: int,
        categories: str,
        limits: str,
        implied: str,
        ban: str,
        dialect: str,
    ) -> tuple[str, str, str]:
        chosen, most = _listed(categories) or None, _limits(limits)
        with _unknown_in_notes():
            filled = model.fill(
                caption, n, temperature, seed, chosen, most, implied=implied, banned=_listed(ban)  # type: ignore[arg-type]
            )  # fmt: skip
        added = [(one.category, one.tag) for one in filled.tags if one.origin != "caption"]
        notes = [*filled.prompt_notes(dialect), *_unknown_notes(filled.unknown)]
        return filled.prompt(dialect), as_prompt(_spelled(model, added), dialect), "\n".join(notes)


class SimilarTags(_Node):
    """The tags whose embeddings are nearest to that of one tag."""

    DESCRIPTION = "The tags whose embeddings are nearest to that of one tag."
    RETURN_TYPES = ("STRING", "STRING")
    RETURN_NAMES = ("tags", "table")

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:  # noqa: N802
        tag = (_CAPTION[0], _CAPTION[1] | {"tooltip": "One tag."})
        return {
            "required": {
                "model": (MODEL,),
                "tag": tag,
                "k": ("INT", {"default": 10, "min": 1, "max": _MAX_TAGS}),
                "category": _CATEGORY,
                "dialect": _DIALECT,
            }
        }

    def run(self, model: BooruEmbedder, tag: str, k: int, category: str, dialect: str) -> tuple[str, str]:
        found = model.similar_tags(tag.strip().strip(","), k, _category(category))
        table = [f"{one.similarity:7.4f}  {one.category.value:<9}  {one.tag}" for one in found]
        spellings = _spelled(model, [(one.category, one.tag) for one in found])
        return as_prompt(spellings, dialect), "\n".join(table)


class Embed(_Node):
    """A caption as a conditioning."""

    DESCRIPTION = "The states of a caption's tokens and its pooled vector, for an image model trained on them."
    RETURN_TYPES = ("CONDITIONING", "STRING")
    RETURN_NAMES = ("conditioning", "notes")

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:  # noqa: N802
        adapter = "A safetensors file of linear maps to the image model's sizes; empty passes the numbers on."
        score = "A whole number, with a rating; empty withholds it."
        return {
            "required": {
                "model": (MODEL,),
                "caption": _CAPTION,
                "rating": ([WITHHELD, *RATINGS],),
                "score": ("STRING", {"default": "", "dynamicPrompts": False, "tooltip": score}),
                "adapter": ("STRING", {"default": "", "dynamicPrompts": False, "tooltip": adapter}),
            }
        }

    def run(
        self, model: BooruEmbedder, caption: str, rating: str, score: str, adapter: str
    ) -> tuple[list[list[Any]], str]:
        given = None if rating == WITHHELD else rating
        with _unknown_in_notes():
            found = conditioning(model, caption, given, _score(score), read_adapter(adapter))
        return found, _notes(model.normalize(caption))


class CaptionToPrompt(_Node):
    """A caption as a prompt for a program."""

    DESCRIPTION = "A caption as a prompt in the spelling of a program, with its escapes and weights."
    RETURN_TYPES = ("STRING", "STRING", "STRING")
    RETURN_NAMES = ("prompt", "unknown", "notes")

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:  # noqa: N802
        return {"required": {"model": (MODEL,), "caption": _CAPTION, "dialect": _DIALECT}}

    def run(self, model: BooruEmbedder, caption: str, dialect: str) -> tuple[str, str, str]:
        with _unknown_in_notes():
            filled = model.fill(caption, n=0, implied="drop")
        notes = [*filled.prompt_notes(dialect), *_unknown_notes(filled.unknown)]
        return filled.prompt(dialect), ", ".join(filled.unknown), "\n".join(notes)


NODES: Final[dict[str, tuple[type[_Node], str]]] = {
    "BooruEmbedLoad": (LoadCheckpoint, "Load booru-embed"),
    "BooruEmbedComplete": (Complete, "Complete tags"),
    "BooruEmbedFill": (Fill, "Fill caption"),
    "BooruEmbedSimilar": (SimilarTags, "Similar tags"),
    "BooruEmbedEmbed": (Embed, "Embed tags"),
    "BooruEmbedPrompt": (CaptionToPrompt, "Caption to prompt"),
}
"""Each node by its name in workflows, with its title; names never change."""


@contextmanager
def _unknown_in_notes() -> Iterator[None]:
    """Keeps warnings of unknown tags out of ComfyUI's log: the output `notes` has them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UnknownTagsWarning)
        yield


def _category(name: str) -> str | None:
    return None if name == ALL else name


def _listed(text: str) -> list[str]:
    """The names in `text` between commas or line breaks."""
    return [name for part in text.replace("\n", ",").split(",") if (name := part.strip())]


def _limits(text: str) -> dict[str, int]:
    """The limits of ``artist=0, character=1``.

    Raises:
        ValueError: a part is not of this form.
    """
    limits = {}
    for part in _listed(text):
        name, _, number = (one.strip() for one in part.partition("="))
        if not number.isdecimal():
            raise ValueError(f"limits: {part!r} is not a category and a number; write it as artist=0")
        limits[name] = int(number)
    return limits


def _score(text: str) -> int | None:
    """The number in `text`, None without one.

    Raises:
        ValueError: it is no whole number.
    """
    if not text.strip():
        return None
    if not _WHOLE_NUMBER.fullmatch(text.strip()):
        raise ValueError(f"score: {text.strip()!r} is not a whole number; write one, or leave it empty")
    return int(text)


def _spelled(model: BooruEmbedder, tags: Iterable[tuple[Any, str]]) -> list[str]:
    """The unique spelling of each category and tag."""
    tokenizer = model.tokenizer
    ids = [tokenizer.encode_fields({category: tag}).token_ids[0] for category, tag in tags]
    return [tokenizer.spellings[token_id - model.vocab.num_special] for token_id in ids]


def _prompt(read: Normalized, added: list[str], dialect: str) -> str:
    """The caption that was `read`, its unknown tags, and the `added` ones."""
    known = read.caption.split(" ") if read.caption else []
    others = [*read.unknown, *added]
    return as_prompt([*known, *others], dialect, [*read.weights, *(1.0 for _ in others)])


def _notes(read: Normalized) -> str:
    return "\n".join([*read.notes, *_unknown_notes(read.unknown)])


def _unknown_notes(unknown: Iterable[str]) -> list[str]:
    return [f"{name}: not in the vocabulary" for name in unknown]
