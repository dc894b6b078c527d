"""Secret, ignored and foreign files are left alone, whatever way leads to them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lsp_server import ignore_files
from lsp_server.exclusions import (
    BINARY,
    MOST_BYTES,
    NOT_A_FILE,
    OUTSIDE,
    SECRET,
    SECRET_TEXT,
    TOO_BIG,
    UNTRUSTED,
    Exclusions,
    text_reason,
)
from tests.lsp_server.documents import put
from tests.lsp_server.ignore_trees import git

SECRET_FILES = """
    .env .env.local .env.example .ENV .envrc prod.env key.pem server.KEY a.p12 a.pfx a.jks a.keystore id_rsa
    id_rsa.pub id_rsa.bak id_ed25519 a.ppk a.gpg a.asc .netrc .npmrc .pypirc .git-credentials credentials
    credentials.json secrets.yaml secrets.py a.kdbx .htpasswd .aws/credentials .aws/config .ssh/config
    .docker/config.json kubeconfig .kube/config service-account-prod.json a.tfvars terraform.tfstate
    terraform.tfstate.backup .pgpass .git/config .config/gcloud/legacy/token .cargo/credentials.toml
"""
PLAIN_FILES = """
    main.py environment.py keys.py my_key.py pem.py config.json docker/config.json ssh/config aws/client.py
    secretary.py token.py .gitignore .github/workflows/ci.yml README.md password_reset.html
"""
KEY = "-----BEGIN OPENSSH PRIVATE KEY-----\nb3Bl\n-----END OPENSSH PRIVATE KEY-----\n"


class Clock:
    """A time that stands still until told otherwise."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize("name", SECRET_FILES.split())
def test_secret_files(root: Path, name: str) -> None:
    path = put(root / name)
    exclusions = Exclusions([root])
    assert exclusions.may_complete(path, path.as_uri()) == SECRET
    assert exclusions.may_show(path, path.as_uri()) == SECRET
    assert exclusions.may_read(path) == SECRET
    assert exclusions.read(path) is None
    assert exclusions.may_complete(None, f"vscode-vfs://github/a/b/{name}") == SECRET
    assert exclusions.may_complete(None, f"untitled:{name}") == SECRET


@pytest.mark.parametrize("name", PLAIN_FILES.split())
def test_files_that_only_sound_secret(root: Path, name: str) -> None:
    path = put(root / name)
    exclusions = Exclusions([root])
    assert exclusions.may_complete(path, path.as_uri(), "text") is None
    assert exclusions.may_show(path, path.as_uri(), "text") is None
    assert exclusions.may_read(path) is None
    assert exclusions.read(path) == "text\n"


def test_a_private_key_is_secret_under_any_name(root: Path) -> None:
    path = put(root / "notes.txt", f"first\n{KEY}")
    exclusions = Exclusions([root])
    assert exclusions.may_read(path) is None
    assert exclusions.read(path) is None
    for text in (KEY, KEY.replace("OPENSSH ", ""), KEY.replace("OPENSSH", "RSA"), KEY.replace("OPENSSH", "ENCRYPTED"),
                 "-----BEGIN PGP PRIVATE KEY BLOCK-----", "PuTTY-User-Key-File-3: ssh-ed25519"):  # fmt: skip
        assert exclusions.may_complete(path, path.as_uri(), text) == SECRET_TEXT
        assert exclusions.may_show(path, path.as_uri(), text) == SECRET_TEXT
    for text in ("-----BEGIN CERTIFICATE-----", "a PRIVATE KEY", "-----BEGIN PUBLIC KEY-----"):
        assert text_reason(text) is None


def test_links_are_what_they_lead_to(root: Path, tmp_path: Path) -> None:
    put(root / ".gitignore", "hidden/\n")
    outside, secret = put(tmp_path / "elsewhere" / "a.py"), put(root / ".env")
    hidden, plain = put(root / "hidden" / "a.py"), put(root / "plain.py")
    (root / "to_outside.py").symlink_to(outside)
    (root / "to_secret.py").symlink_to(secret)
    (root / "to_hidden.py").symlink_to(hidden)
    (root / "to_plain.py").symlink_to(plain)
    (root / "folder").symlink_to(outside.parent)
    (root / "loop.py").symlink_to(root / "loop.py")
    exclusions = Exclusions([root])
    reasons = {path.name: exclusions.may_read(path) for path in root.glob("*.py")}
    assert reasons == {
        "to_outside.py": OUTSIDE,
        "to_secret.py": SECRET,
        "to_hidden.py": "ignored by .gitignore",
        "to_plain.py": None,
        "plain.py": None,
        "loop.py": NOT_A_FILE,
    }
    assert exclusions.may_read(root / "folder" / "a.py") == OUTSIDE
    assert exclusions.may_show(root / "folder" / "a.py", "") == OUTSIDE
    assert exclusions.may_read(root / "folder" / ".." / "plain.py") == OUTSIDE
    assert exclusions.read(root / "to_plain.py") == "text\n"


def test_a_link_that_turns_elsewhere_is_noticed_at_once_when_reading(root: Path) -> None:
    put(root / ".env", "secret\n")
    put(root / "a.py", "fine\n")
    link = root / "link.py"
    link.symlink_to("a.py")
    exclusions = Exclusions([root], clock=Clock())
    assert exclusions.read(link) == "fine\n"
    link.unlink()
    link.symlink_to(".env")
    assert exclusions.read(link) is None
    assert exclusions.reason(link, "") == SECRET


def test_a_workspace_folder_may_be_a_link(root: Path, tmp_path: Path) -> None:
    put(root / "a.py")
    link = tmp_path / "link"
    link.symlink_to(root)
    exclusions = Exclusions([link])
    assert exclusions.read(link / "a.py") == "text\n"
    assert exclusions.label(link / "a.py", "") == "a.py"


def test_outside_documents_are_completed_in_but_neither_read_nor_shown(root: Path, tmp_path: Path) -> None:
    path = put(tmp_path / "other.py")
    exclusions = Exclusions([root])
    assert exclusions.may_complete(path, path.as_uri()) is None
    assert exclusions.may_show(path, path.as_uri()) == OUTSIDE
    assert exclusions.read(path) is None
    assert exclusions.may_show(None, "untitled:Untitled-1", "text") is None
    assert Exclusions([]).may_show(path, path.as_uri()) is None
    assert Exclusions([]).may_read(path) == OUTSIDE


def test_without_trust_only_open_documents_count(root: Path) -> None:
    path = put(root / "a.py")
    exclusions = Exclusions([root], trusted=False)
    assert exclusions.may_complete(path, path.as_uri()) is None
    assert exclusions.may_show(path, path.as_uri()) is None
    assert exclusions.may_read(path) == UNTRUSTED
    assert exclusions.read(path) is None


def test_documents_that_nobody_edits(root: Path) -> None:
    exclusions = Exclusions([root])
    assert exclusions.may_complete(None, "output:extension-output-1") == "not a file that is edited (output:)"
    assert exclusions.may_complete(root / "a.py", f"git:{root}/a.py?ref=HEAD") == "not a file that is edited (git:)"
    assert exclusions.may_complete(None, "vscode-vfs://github/a/b/main.py") is None
    assert exclusions.may_complete(None, "untitled:Untitled-1") is None


def test_big_binary_and_missing_files_and_what_is_no_file(root: Path) -> None:
    put(root / "big.py", "x" * (MOST_BYTES + 1))
    put(root / "full.py", "x" * MOST_BYTES)
    (root / "binary.py").write_bytes(b"a\0b")
    os.mkfifo(root / "pipe.py")
    exclusions = Exclusions([root])
    assert exclusions.may_read(root / "big.py") == TOO_BIG
    assert exclusions.may_read(root / "none.py") == NOT_A_FILE
    assert exclusions.may_read(root / "pipe.py") == NOT_A_FILE
    assert exclusions.may_read(root) == NOT_A_FILE
    assert exclusions.read(root / "binary.py") is None
    assert exclusions.may_complete(root / "binary.py", "", "a\0b") == BINARY
    assert len(exclusions.read(root / "full.py") or "") == MOST_BYTES
    assert exclusions.read(root / "full.py", most_bytes=10) is None
    assert exclusions.read(Path("\0")) is None


def test_an_ignore_file_that_changes_counts_within_a_second(root: Path) -> None:
    clock = Clock()
    path = put(root / "a" / "b.py")
    exclusions = Exclusions([root], clock=clock)
    assert exclusions.reason(path, "") is None
    for ignore, text in (
        (".gitignore", "b.py"),
        ("a/.gitignore", "!b.py"),
        (".treelineignore", "a/"),
        (".treelineignore", ""),
    ):
        before = exclusions.reason(path, "")
        put(root / ignore, text)
        assert exclusions.reason(path, "") == before
        clock.now += 1.5
        assert exclusions.reason(path, "") != before
    put(root / "a/.gitignore", "*")
    exclusions.forget()
    assert exclusions.reason(path, "") == "ignored by .gitignore"


def test_reading_never_uses_an_old_verdict(root: Path) -> None:
    path = put(root / "b.py")
    exclusions = Exclusions([root], clock=Clock())
    assert exclusions.read(path) == "text\n"
    put(root / ".gitignore", "b.py")
    assert exclusions.read(path) is None


def test_asking_again_does_not_touch_the_disk(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = put(root / "a" / "b.py")
    exclusions = Exclusions([root], clock=Clock())
    exclusions.reason(path, path.as_uri())
    touched: list[str] = []
    for name in ("stat", "lstat", "readlink", "open"):
        monkeypatch.setattr(os, name, lambda *given, **named: touched.append("disk") or pytest.fail("touched the disk"))
    for _ in range(100):
        assert exclusions.reason(path, path.as_uri()) is None
    assert not touched


def test_an_ignore_file_is_read_once_for_all_files_of_a_folder(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(root / ".gitignore", "*.log\n")
    read: list[str] = []
    original = ignore_files._content
    monkeypatch.setattr(ignore_files, "_content", lambda path: read.append(path) or original(path))
    exclusions = Exclusions([root])
    for number in range(50):
        exclusions.reason(put(root / f"{number}.py"), "")
    assert read.count(str(root / ".gitignore")) == 1


def test_what_a_worktree_and_the_user_exclude(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(root / "a.py")
    git(root, "-c", "user.name=n", "-c", "user.email=e", "commit", "-q", "--allow-empty", "-m", "m")
    git(root, "worktree", "add", "-q", str(tmp_path / "tree"))
    put(root / ".git/info/exclude", "local.py\n")
    tree = tmp_path / "tree"
    assert (tree / ".git").is_file()
    assert Exclusions([tree]).reason(put(tree / "local.py"), "") == "ignored by .gitignore"
    put(tmp_path / "config/git/ignore", "mine.py\n!local.py\n")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    assert Exclusions([tree]).reason(put(tree / "mine.py"), "") == "ignored by .gitignore"
    assert Exclusions([tree]).reason(tree / "local.py", "") == "ignored by .gitignore"


def test_a_repository_in_an_ignored_folder_is_ignored_by_the_workspace(root: Path) -> None:
    inner = root / "vendor" / "lib"
    inner.mkdir(parents=True)
    git(inner, "init", "-q")
    path = put(inner / "a.py")
    assert Exclusions([root]).reason(path, "") is None
    put(root / ".gitignore", "vendor/\n")
    assert Exclusions([root]).reason(path, "") == "ignored by .gitignore"
    assert Exclusions([inner]).reason(path, "") is None  # opened by itself, it is the workspace


def test_without_a_repository_ignore_files_count_from_the_folder_down(tmp_path: Path) -> None:
    folder = tmp_path / "plain"
    path = put(folder / "a" / "b.py")
    put(folder / ".gitignore", "/a/\n")
    put(tmp_path / ".gitignore", "*\n!a/\n")
    assert Exclusions([folder]).reason(path, "") == "ignored by .gitignore"
    assert Exclusions([folder]).reason(put(folder / "c.py"), "") is None


@given(st.text(), st.text())
def test_no_uri_and_no_path_breaks_it(text: str, uri: str) -> None:
    exclusions = Exclusions([Path("/nowhere")])
    path = Path("/nowhere") / text
    exclusions.may_complete(path, uri, text)
    exclusions.label(path, uri)
    assert exclusions.read(path) is None
