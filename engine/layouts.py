"""How each model family was taught to fill in the middle: one row of data per layout.

A row says in which order a prompt's parts stand between which special tokens. Parts that change with every keystroke
stand as late as the training allows, so that the KV cache of everything before them survives typing: suffix first where
the model was trained for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from engine.errors import TreelineError
from engine.tokenizer import Tokenizer

CONTEXT, PREFIX, SUFFIX = "{context}", "{prefix}", "{suffix}"
_PARTS = (CONTEXT, PREFIX, SUFFIX)

# How other files are shown: after a special token and their path; under a comment or a `+++++` line with their path;
# or line by line as comments, for models that would take them for a part of the file.
Context = Literal["separator", "path comment", "plus header", "comments"]


@dataclass(frozen=True, slots=True)
class PromptLayout:
    """One family's prompt.

    `fim` and `plain` list special tokens and the parts {context}, {prefix}, {suffix} in order; `fim` is empty where the
    model knows no fill-in-the-middle, `plain` is used then and, where `fim_without_suffix` is False, at a file's end.
    `heal`: take back the last tokens of the prefix (see `Tokenizer.healing`); rows trained on cuts at any character,
    each part encoded by itself, need none. `path_in_prefix`: the file's own path is the first line of the prefix part.
    `own_header`: a file's path is shown even if no other file is.
    `repository` is the token before the repository's name and what follows the name.
    `stop`: special tokens that end a completion, besides the tokenizer's end tokens. `model_types` restricts the choice
    by config.json's model_type (empty: any).
    """

    name: str
    fim: tuple[str, ...]
    plain: tuple[str, ...] = (CONTEXT, PREFIX)
    fim_without_suffix: bool = False
    context: Context = "comments"
    separator: str = ""
    repository: tuple[str, str] | None = None
    path_in_prefix: bool = False
    own_header: bool = False
    heal: bool = True
    stop: tuple[str, ...] = ()
    model_types: tuple[str, ...] = ()

    @property
    def specials(self) -> tuple[str, ...]:
        """Special tokens that the tokenizer must have for this layout."""
        return tuple(item for item in self.fim if item not in _PARTS)


_QWEN_MARKS = ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>", "<|fim_pad|>", "<|repo_name|>", "<|file_sep|>")
_STAR_MARKS = (
    "<fim_prefix>",
    "<fim_suffix>",
    "<fim_middle>",
    "<fim_pad>",
    "<file_sep>",
    "<repo_name>",
    "<|endoftext|>",
)
_DEEP_BEGIN, _DEEP_HOLE, _DEEP_END = (f"<\uff5cfim\u2581{name}\uff5c>" for name in ("begin", "hole", "end"))
_PRE, _SUF, _MID, _EOT = (f"\u2581<{name}>" for name in ("PRE", "SUF", "MID", "EOT"))

# Order matters where the choice is automatic: the first row that fits is taken.
LAYOUTS = (
    # The pair in engine/assets, as training/layouts.py builds its samples: cut at characters, every part encoded by
    # itself (suffix first, the middle follows the prefix directly), one sample in eight without a suffix. Healing
    # made 10 of 80 lines right where 3 were without it. Marks are spelled as Qwen's; the architecture is Llama's.
    PromptLayout(
        "treeline",
        (CONTEXT, "<|fim_prefix|>", "<|fim_suffix|>", SUFFIX, "<|fim_middle|>", PREFIX),
        fim_without_suffix=True,
        context="separator",
        separator="<|file_sep|>",
        own_header=True,
        heal=True,
        stop=_QWEN_MARKS,
        model_types=("llama",),
    ),
    PromptLayout(
        "treeline-prefix-first",
        (CONTEXT, "<|fim_prefix|>", PREFIX, "<|fim_suffix|>", SUFFIX, "<|fim_middle|>"),
        fim_without_suffix=True,
        context="separator",
        separator="<|file_sep|>",
        own_header=True,
        heal=False,
        stop=_QWEN_MARKS,
        model_types=("llama",),
    ),
    # arXiv 2409.12186 (file-level format; repository-level format, figure 4) and the README of QwenLM/Qwen2.5-Coder.
    # Prefix first only. How its cuts fell is not published, so the prefix is healed; samples without a suffix are not
    # documented either, so a file's end is a plain continuation. It may answer with any of the marks (its issue 99).
    PromptLayout(
        "qwen",
        (CONTEXT, "<|fim_prefix|>", PREFIX, "<|fim_suffix|>", SUFFIX, "<|fim_middle|>"),
        context="separator",
        separator="<|file_sep|>",
        repository=("<|repo_name|>", "\n"),
        stop=(*_QWEN_MARKS, "<|endoftext|>", "<|im_start|>", "<|im_end|>"),
    ),
    # arXiv 2402.19173, section 5.1, and bigcode-project/starcoder2 issues 10 and 21: trained prefix first and suffix
    # first, on cuts at any character inside each file, the path (if any) being the file's first line; <file_sep> ends.
    PromptLayout(
        "starcoder2",
        (CONTEXT, "<fim_prefix>", "<fim_suffix>", SUFFIX, "<fim_middle>", PREFIX),
        context="separator",
        separator="<file_sep>",
        repository=("<repo_name>", ""),
        path_in_prefix=True,
        heal=False,
        stop=_STAR_MARKS,
        model_types=("starcoder2",),
    ),
    PromptLayout(
        "starcoder2-prefix-first",
        (CONTEXT, "<fim_prefix>", PREFIX, "<fim_suffix>", SUFFIX, "<fim_middle>"),
        context="separator",
        separator="<file_sep>",
        repository=("<repo_name>", ""),
        path_in_prefix=True,
        heal=False,
        stop=_STAR_MARKS,
        model_types=("starcoder2",),
    ),
    # The same marks in other models (StarCoder, StableCode, CodeQwen1.5): prefix first is what all of them document.
    PromptLayout(
        "starcoder",
        ("<fim_prefix>", CONTEXT, PREFIX, "<fim_suffix>", SUFFIX, "<fim_middle>"),
        stop=_STAR_MARKS,
    ),
    # README of deepseek-ai/DeepSeek-Coder: code insertion; other files stand before the file under `#path` comments.
    PromptLayout(
        "deepseek",
        (_DEEP_BEGIN, CONTEXT, PREFIX, _DEEP_HOLE, SUFFIX, _DEEP_END),
        context="path comment",
        stop=(_DEEP_BEGIN, _DEEP_HOLE, _DEEP_END),
    ),
    # arXiv 2308.12950, section 2.3, and `infilling_prompt_tokens` of facebookresearch/codellama. Both orders are
    # trained, on cuts at any character; suffix first, prefix and middle were encoded as one text, hence healing.
    PromptLayout("codellama", (_PRE, _SUF, SUFFIX, _MID, CONTEXT, PREFIX), stop=(_EOT,)),
    PromptLayout(
        "codellama-prefix-first", (_PRE, CONTEXT, PREFIX, _SUF, SUFFIX, _MID), heal=False, stop=(_PRE, _SUF, _MID, _EOT)
    ),
    # `encode_fim` of mistralai/mistral-common: suffix first, and so without a suffix too. Its files are headed `+++++`
    # in the templates of continuedev/continue.
    PromptLayout(
        "codestral",
        ("[SUFFIX]", SUFFIX, "[PREFIX]", CONTEXT, PREFIX),
        fim_without_suffix=True,
        context="plus header",
        stop=("[PREFIX]", "[SUFFIX]", "[MIDDLE]"),
    ),
    # Models without such tokens (Llama 3.1 and 3.3, Mistral): what follows the cursor becomes a part of the context.
    PromptLayout("plain", (), own_header=True),
)


def choose_layout(tokenizer: Tokenizer, name: str | None = None) -> PromptLayout:
    """Return the layout called `name`, else the one that the checkpoint declares, else the first that fits it.

    A checkpoint declares one in config.json or tokenizer_config.json: `"treeline": {"layout": NAME}`.
    Raises TreelineError for an unknown name (lists those that exist) and for special tokens that the tokenizer lacks.
    """
    wanted = name or tokenizer.declared_layout
    if wanted is None:
        return next(layout for layout in LAYOUTS if _fits(layout, tokenizer))
    layout = next((layout for layout in LAYOUTS if layout.name == wanted), None)
    if layout is None:
        known = ", ".join(layout.name for layout in LAYOUTS)
        raise TreelineError(f"no prompt layout is called {wanted}: choose one of {known}")
    lacking = missing_specials(layout.specials, tokenizer)
    if lacking:
        raise TreelineError(f"prompt layout {wanted} needs {', '.join(lacking)}, which this model's tokenizer lacks")
    return layout


def missing_specials(specials: Sequence[str], tokenizer: Tokenizer) -> list[str]:
    """Return those of `specials` that are no control tokens of the tokenizer."""
    return [text for text in specials if tokenizer.special_id(text) is None]


def _fits(layout: PromptLayout, tokenizer: Tokenizer) -> bool:
    known = not layout.model_types or tokenizer.model_type in layout.model_types
    return known and not missing_specials(layout.specials, tokenizer)
