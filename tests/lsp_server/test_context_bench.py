"""The benchmark of context asks about real cursors, and never shows the file itself."""

from __future__ import annotations

from pathlib import Path

from benchmarks.context import WAYS, contexts, write_workspace
from benchmarks.make_cases import make_cases
from tests.lsp_server.documents import functions
from training.data import Document


def test_every_way_shows_more_than_the_one_before(tmp_path: Path) -> None:
    texts = {
        "shop/main.py": "from shop.util import util_1\n\n" + functions("main", 20),
        "shop/util.py": functions("util", 20),
        "shop/other.py": functions("other", 20),
    }
    documents = [Document("shop", path, "python", text) for path, text in texts.items()]
    paths = write_workspace(documents, tmp_path)
    for case in make_cases(documents, 12, seed=0):
        shown = list(contexts(case, documents, paths, budget=20_000, opened=2))
        assert len(shown) == len(WAYS)
        assert shown[0] == ()
        assert {file.path for file in shown[1]} == ({"shop/util.py"} if case.path == "shop/main.py" else set())
        assert {file.path for file in shown[2]} == texts.keys() - {case.path}
