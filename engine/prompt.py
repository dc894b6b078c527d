"""From a request to the token ids that the model sees: parts cut to a budget, laid out as the model was trained.

The nearest text matters most: the end of the prefix, then the beginning of the suffix, then other files. Cuts fall on
line starts and move in steps of many lines, so that typing leaves what stands before the cursor's line unchanged, token
for token, and the KV cache with it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from engine.errors import TreelineError
from engine.excerpts import head, tail
from engine.layouts import CONTEXT, PREFIX, SUFFIX, PromptLayout, choose_layout
from engine.request import CompletionRequest
from engine.surroundings import below_block, files_block, own_header, path_lead
from engine.tokenizer import Tokenizer

__all__ = ["Prompt", "PromptLayout", "build_prompt", "choose_layout"]

_SUFFIX_SHARE = 4  # the suffix gets a quarter of the budget, and what the prefix leaves
_PATH_SHARE = 4  # the path of the file a quarter at most
_FILES_SHARE = 5  # other files a fifth, and what both leave
_STEP = 256  # tokens: leftovers are shared out in such steps, so that they change seldom while the user types
_SMALLEST = 16


@dataclass(frozen=True, slots=True)
class Prompt:
    """What to feed and how to go on.

    `ids` is never empty. While `required` bytes are owed, the completion's tokens spell them first (token healing);
    `dropped` are the ids that did so in the file, a likely first branch of the tree. `max_new` tokens may be made,
    those that pay the debt included; `stop_ids` end the completion.
    """

    ids: tuple[int, ...]
    required: bytes
    dropped: tuple[int, ...]
    stop_ids: frozenset[int]
    max_new: int
    layout: str


@dataclass(frozen=True, slots=True)
class _Parts:
    """Token ids of a prompt's parts; `lead` (the file's path) stands before the prefix and is never healed."""

    context: list[int]
    lead: list[int]
    prefix: list[int]
    suffix: list[int]


def build_prompt(request: CompletionRequest, tokenizer: Tokenizer, layout: PromptLayout, window: int) -> Prompt:
    """Lay out `request` for a model that holds `window` tokens.

    The completion's own tokens are set aside, at most half the window. Raises TreelineError if the window is too small
    for any prompt.
    """
    max_new = max(1, min(request.max_tokens, window // 2))
    if not request.suffix.strip() and not layout.fim_without_suffix:
        layout = replace(layout, fim=())
    budget = window - max_new - len(layout.fim) - 2
    if budget < _SMALLEST:
        raise TreelineError(f"a context of {window} tokens leaves no room for a prompt")
    parts = _fill(request, tokenizer, layout, budget)
    kept, dropped, required = parts.prefix, list[int](), b""
    if layout.heal:
        healed = tokenizer.healing(parts.prefix)
        kept, dropped, required = healed.kept, healed.dropped, healed.required
        if not (parts.context or parts.lead or parts.prefix):
            required = tokenizer.leading  # the space that this model's texts begin with is not the user's
    ids = _assemble(tokenizer, layout, replace(parts, prefix=kept))
    stops = (tokenizer.special_id(text) for text in layout.stop)
    return Prompt(
        ids=tuple(ids),
        required=required,
        dropped=tuple(dropped),
        stop_ids=frozenset((*tokenizer.eos_ids, *(token for token in stops if token is not None))),
        max_new=min(max_new, window - len(ids)),
        layout=layout.name,
    )


def _assemble(tokenizer: Tokenizer, layout: PromptLayout, parts: _Parts) -> list[int]:
    """Return the ids in the layout's order, after BOS where the model wants it; never an empty list."""
    ids = [tokenizer.bos_id] if tokenizer.add_bos and tokenizer.bos_id is not None else []
    for item in layout.fim or layout.plain:
        if item == CONTEXT:
            ids += parts.context
        elif item == PREFIX:
            ids += parts.lead + parts.prefix
        elif item == SUFFIX:
            ids += parts.suffix
        else:
            token = tokenizer.special_id(item)
            if token is None:
                raise TreelineError(f"prompt layout {layout.name} needs {item}, which this model's tokenizer lacks")
            ids.append(token)
    if ids:
        return ids
    starts = (tokenizer.bos_id, *tokenizer.eos_ids)
    start = next((token for token in starts if token is not None), None)
    return [start] if start is not None else tokenizer.encode("\n")


def _fill(request: CompletionRequest, tokenizer: Tokenizer, layout: PromptLayout, budget: int) -> _Parts:
    """Give the prefix what it needs, but the suffix and the files their shares; then hand out what is left."""
    fill = _Fill(request, tokenizer, layout)
    while request.path and len(fill.header(first=True)) + len(fill.lead()) > budget // _PATH_SHARE:
        request = replace(request, path=request.path[len(request.path) // 2 + 1 :])  # its end says more
        fill = replace(fill, request=request)
    lead = fill.lead()
    budget -= len(fill.header(first=True)) + len(lead)
    share, other = budget // _SUFFIX_SHARE, budget // _FILES_SHARE
    files = fill.files(other)
    after = fill.after(share, first=not files)
    context = [*files, *([] if fill.inside else after)]
    context += fill.header(first=not context)
    first = not context and not lead  # SentencePiece models saw a space before the first text of a document only
    prefix, whole = tail(
        request.prefix, budget - len(files) - len(after), lambda text: tokenizer.encode(text, first=first)
    )
    if whole:
        left = budget - -(-len(prefix) // _STEP) * _STEP
        after = fill.after(max(share, left - len(files)), first=not files)
        files = fill.files(max(other, left - len(after)))
        context = [*files, *([] if fill.inside else after)]
        context += fill.header(first=not context)
    return _Parts(context, lead, prefix, after if fill.inside else [])


@dataclass(frozen=True, slots=True)
class _Fill:
    """The parts of one request around its prefix."""

    request: CompletionRequest
    tokenizer: Tokenizer
    layout: PromptLayout

    @property
    def inside(self) -> bool:
        """Whether the suffix has a part of its own; elsewhere it becomes a comment."""
        return SUFFIX in self.layout.fim

    def lead(self) -> list[int]:
        return path_lead(self.request, self.tokenizer, self.layout)

    def files(self, budget: int) -> list[int]:
        return files_block(self.request, self.tokenizer, self.layout, budget)

    def after(self, budget: int, *, first: bool) -> list[int]:
        if self.inside:
            return head(self.request.suffix, budget, self.tokenizer.encode)
        return below_block(self.request, self.tokenizer, self.layout, budget, first=first)

    def header(self, *, first: bool) -> list[int]:
        return own_header(self.request, self.tokenizer, self.layout, first=first)
