"""What of other files, and for plain continuation of the text below the cursor, stands before the prefix."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePath

from engine.comments import CommentSyntax, comment_syntax, commented
from engine.excerpts import WIDTH, head
from engine.layouts import PromptLayout
from engine.request import CompletionRequest
from engine.tokenizer import Tokenizer

_LONGEST_PATH = 200  # characters, the last ones: more would leave a small context no room for text


@dataclass(frozen=True, slots=True)
class _Section:
    """A title and the text below it; `below` marks the text that follows the cursor."""

    path: str
    text: str
    below: bool = False


def files_block(request: CompletionRequest, tokenizer: Tokenizer, layout: PromptLayout, budget: int) -> list[int]:
    """Return the ids of the other files in their order, in `budget` tokens; a long one is cut at a line's end.

    Each but the last may take half of what is left: one more file then seldom changes what those before it became,
    and the KV cache of it survives.
    """
    separator = _separator(tokenizer, layout)
    ids = _repository(request, tokenizer, layout)
    files = [file for file in request.context if file.text.strip()]
    left = budget - len(ids)
    for position, file in enumerate(files, start=1):
        share = left if position == len(files) else left // 2
        if separator is None:
            added = _section(_Section(file.path, file.text), request, tokenizer, layout, share, first=not ids)
        else:
            added = [separator, *tokenizer.encode(shown_path(file.path) + "\n")]
            body = head(_ended(file.text[: max(share, 0) * WIDTH]), share - len(added), tokenizer.encode)
            added = added + body if body else []
        ids += added
        left -= len(added)
    return ids


def below_block(
    request: CompletionRequest, tokenizer: Tokenizer, layout: PromptLayout, budget: int, *, first: bool
) -> list[int]:
    """Return the ids of the text below the cursor as comments, at most `budget`; none if it has its own part."""
    if layout.fim or layout.context != "comments" or not request.suffix.strip():
        return []
    return _section(_Section(request.path, request.suffix, below=True), request, tokenizer, layout, budget, first=first)


def own_header(request: CompletionRequest, tokenizer: Tokenizer, layout: PromptLayout, *, first: bool) -> list[int]:
    """Return the ids of the line with the edited file's own path, which stands right before its text."""
    separator = _separator(tokenizer, layout)
    if layout.path_in_prefix and layout.fim:
        return [separator] if separator is not None and request.context else []
    if not request.path or not (layout.own_header or request.context):
        return []
    if separator is not None:
        return [separator, *tokenizer.encode(shown_path(request.path) + "\n")]
    syntax = comment_syntax(request.language, request.path)
    return tokenizer.encode(_title(_Section(request.path, ""), layout, syntax), first=first)


def shown_path(path: str) -> str:
    """Return a path as prompts show it: one short line, forward slashes, of an absolute path the last two parts."""
    plain = " ".join(path.replace("\\", "/").split())
    absolute = plain.startswith("/") or plain[1:3] == ":/"
    return ("/".join(plain.split("/")[-2:]) if absolute else plain)[-_LONGEST_PATH:]


def path_lead(request: CompletionRequest, tokenizer: Tokenizer, layout: PromptLayout) -> list[int]:
    """Return the ids of the path where the layout wants it inside the prefix part; empty elsewhere."""
    inside = layout.path_in_prefix and bool(layout.fim) and bool(request.context) and bool(request.path)
    return tokenizer.encode(shown_path(request.path) + "\n") if inside else []


def _separator(tokenizer: Tokenizer, layout: PromptLayout) -> int | None:
    return tokenizer.special_id(layout.separator) if layout.context == "separator" else None


def _repository(request: CompletionRequest, tokenizer: Tokenizer, layout: PromptLayout) -> list[int]:
    """Return the repository's name, taken for the folder that all paths have in common, if there is one."""
    if layout.repository is None or not request.context:
        return []
    mark, after = tokenizer.special_id(layout.repository[0]), layout.repository[1]
    paths = [PurePath(shown_path(path)).parts for path in (request.path, *(file.path for file in request.context))]
    tops = {parts[0] if len(parts) > 1 else "" for parts in paths}
    top = tops.pop()
    return [mark, *tokenizer.encode(top + after)] if mark is not None and top and not tops else []


def _section(
    section: _Section,
    request: CompletionRequest,
    tokenizer: Tokenizer,
    layout: PromptLayout,
    budget: int,
    *,
    first: bool,
) -> list[int]:
    """Return the ids of one titled text, at most `budget`; none if nothing of the text would fit."""
    syntax = comment_syntax(request.language, request.path)
    title = tokenizer.encode(_title(section, layout, syntax), first=first)
    text = _ended(section.text[: max(budget, 0) * WIDTH])
    if layout.context == "comments":
        text = commented(text, syntax)
    blank = tokenizer.encode("\n")
    body = head(text, budget - len(title) - len(blank), tokenizer.encode)
    return [*title, *body, *blank] if body else []


def _title(section: _Section, layout: PromptLayout, syntax: CommentSyntax) -> str:
    path = shown_path(section.path)
    if layout.context == "plus header":
        return f"+++++ {path}\n"
    if section.below:
        path = f"{path}, below the cursor:" if path else "below the cursor:"
    return f"{syntax.before}{path}{syntax.after}\n"


def _ended(text: str) -> str:
    return text if not text or text.endswith("\n") else text + "\n"
