"""Which file of the workspace an import means."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from lsp_server.outline import Import
from lsp_server.script_outline import SCRIPT_SUFFIXES

_PYTHON_SUFFIXES = (".py", ".pyi")
_SOURCE_FOLDERS = ("src", "lib", "python")
_COMPILED = {".js": (".ts", ".tsx"), ".jsx": (".tsx",), ".mjs": (".mts",), ".cjs": (".cts",)}


def python_file(wanted: Import, importer: Path | None, folders: Sequence[Path]) -> Path | None:
    """Find a module: relative ones beside the importer, others from the folders and from where packages begin."""
    parts = [part for part in wanted.module.split(".") if part]
    if wanted.level:
        if importer is None or len(importer.parents) < wanted.level:
            return None
        return _module(importer.parents[wanted.level - 1], parts)
    if not parts or parts[0] in sys.stdlib_module_names:
        return None
    return next((found for root in _roots(importer, folders) if (found := _module(root, parts))), None)


def script_file(wanted: Import, importer: Path | None) -> Path | None:
    """Find a relative module as bundlers and TypeScript do: `.js` may mean `.ts`, and a folder its index."""
    if importer is None:
        return None
    base = Path(os.path.normpath(importer.parent / wanted.module))
    candidates = [base] if base.suffix in SCRIPT_SUFFIXES else []
    candidates += [base.with_suffix(suffix) for suffix in _COMPILED.get(base.suffix, ())]
    candidates += [base.with_name(base.name + suffix) for suffix in SCRIPT_SUFFIXES]
    candidates += [base / f"index{suffix}" for suffix in SCRIPT_SUFFIXES]
    return next((path for path in candidates if path.is_file()), None)


def _module(root: Path, parts: Sequence[str]) -> Path | None:
    base = root.joinpath(*parts)
    candidates = [base.with_name(base.name + suffix) for suffix in _PYTHON_SUFFIXES] if parts else []
    candidates += [base / f"__init__{suffix}" for suffix in _PYTHON_SUFFIXES]
    return next((path for path in candidates if path.is_file()), None)


def _roots(importer: Path | None, folders: Sequence[Path]) -> Iterator[Path]:
    """Yield where absolute imports may start: in folders around the importer that are no packages, then as usual."""
    holding = [folder for folder in folders if importer is not None and importer.is_relative_to(folder)]
    if importer is not None and holding:
        top = max(holding, key=lambda folder: len(folder.parts))
        for parent in importer.parents:
            if not (parent / "__init__.py").is_file():
                yield parent
            if parent == top:
                break
    for folder in folders:
        yield folder
        yield from (folder / name for name in _SOURCE_FOLDERS)
