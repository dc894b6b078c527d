"""Notebooks: each cell is a document, and those before it are what was written before."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lsp_server.server import local_path
from tests.lsp_server.open_file import OpenFile, span
from tests.lsp_server.rpc import CAPABILITIES, Client, initialize
from tests.lsp_server.scripted_engine import ScriptedEngine

CAPABLE = CAPABILITIES | {"notebookDocument": {"synchronization": {"dynamicRegistration": False}}}
BOOK = "file:///project/book.ipynb"
CODE, PROSE = 2, 1


def cell(number: int, kind: int = CODE) -> dict[str, Any]:
    return {"kind": kind, "document": f"vscode-notebook-cell:/project/book.ipynb#c{number}"}


def document(number: int, text: str) -> dict[str, Any]:
    return {"uri": cell(number)["document"], "languageId": "python", "version": 1, "text": text}


def begin(client: Client, *texts: str) -> list[OpenFile]:
    """Open a notebook whose second cell is prose."""
    initialize(client, capabilities=CAPABLE)
    client.notified("treeline/status", lambda status: status["state"] == "ready")
    kinds = [CODE, PROSE, *[CODE] * len(texts)]
    cells = [cell(number, kinds[number]) for number in range(len(texts))]
    client.notify(
        "notebookDocument/didOpen",
        {
            "notebookDocument": {"uri": BOOK, "notebookType": "jupyter-notebook", "version": 1, "cells": cells},
            "cellTextDocuments": [document(number, text) for number, text in enumerate(texts)],
        },
    )
    return [OpenFile(client, each["document"]) for each in cells]


def change(client: Client, cells: dict[str, Any], version: int = 2) -> None:
    params = {"notebookDocument": {"uri": BOOK, "version": version}, "change": {"cells": cells}}
    client.notify("notebookDocument/didChange", params)


def test_earlier_cells_of_code_come_before(fresh: Client, scripted: ScriptedEngine) -> None:
    cells = begin(fresh, "a = 1\n", "# Prose", "b = a\n\n\n", "c = ", "d = 4")
    [item] = cells[3].complete((0, 4))
    assert scripted.asked[-1].prompt == "a = 1\n\nb = a\n\nc = "
    assert item["range"] == span((0, 4), (0, 4))
    assert cells[0].complete((0, 4))
    assert scripted.asked[-1].prompt == "a = "


def test_cells_are_edited(fresh: Client, scripted: ScriptedEngine) -> None:
    cells = begin(fresh, "a = 1", "# Prose", "b = ")
    edits = [
        {
            "document": {"uri": cells[0].uri, "version": 2},
            "changes": [{"range": span((0, 4), (0, 5)), "text": "'😀'"}, {"range": span((0, 0), (0, 1)), "text": "x"}],
        },
        {"document": {"uri": cells[2].uri, "version": 2}, "changes": [{"text": "other = "}]},
    ]
    change(fresh, {"textContent": edits})
    assert cells[2].complete((0, 8))
    assert scripted.asked[-1].prompt == "x = '😀'\n\nother = "


def test_cells_are_added_removed_and_moved(fresh: Client, scripted: ScriptedEngine) -> None:
    cells = begin(fresh, "a = 1", "# Prose", "b = ")
    added = {"array": {"start": 1, "deleteCount": 0, "cells": [cell(7)]}, "didOpen": [document(7, "new = 7")]}
    change(fresh, {"structure": added})
    assert cells[2].complete((0, 4))
    assert scripted.asked[-1].prompt == "a = 1\n\nnew = 7\n\nb = "
    removed = {"array": {"start": 0, "deleteCount": 1}, "didClose": [{"uri": cells[0].uri}]}
    change(fresh, {"structure": removed}, 3)
    assert cells[2].complete((0, 4))
    assert scripted.asked[-1].prompt == "new = 7\n\nb = "
    assert cells[0].complete() == []
    assert cells[0].reason() == "unknown document"
    moved = {"array": {"start": 0, "deleteCount": 3, "cells": [cell(2), cell(1, PROSE), cell(7)]}}
    change(fresh, {"structure": moved}, 4)
    assert cells[2].complete((0, 4))
    assert scripted.asked[-1].prompt == "b = "
    assert OpenFile(fresh, cell(7)["document"]).complete((0, 6))
    assert scripted.asked[-1].prompt == "b =\n\nnew = "


def test_a_closed_notebook_is_forgotten(fresh: Client, scripted: ScriptedEngine) -> None:
    cells = begin(fresh, "a = 1", "# Prose", "b = ")
    identifiers = [{"uri": each.uri} for each in cells]
    fresh.notify("notebookDocument/didClose", {"notebookDocument": {"uri": BOOK}, "cellTextDocuments": identifiers})
    assert cells[2].complete() == []
    assert not scripted.asked
    change(fresh, {"textContent": []})
    assert cells[2].complete() == []


@pytest.mark.parametrize(
    ("uri", "path"),
    [
        ("vscode-notebook-cell:/home/a.ipynb#W0sZmlsZQ", Path("/home/a.ipynb")),
        ("vscode-notebook-cell:Untitled-1.ipynb?jupyter-notebook#W0", None),
    ],
)
def test_where_a_cell_lies(uri: str, path: Path | None) -> None:
    assert local_path(uri) == path
