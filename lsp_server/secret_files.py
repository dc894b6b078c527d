"""Files that hold secrets, told by their names or by what is in them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from fnmatch import translate

# Of the last part of a path, in lower case.
_NAMES = (
    # environments
    ".env*", "*.env", ".envrc", ".flaskenv", ".dev.vars*", "*.tfvars", "*.tfvars.json", "*.tfstate", "*.tfstate.*",
    # private keys, certificates and the stores that hold them
    "*.pem", "*.key", "*.p8", "*.p12", "*.pfx", "*.pkcs12", "*.crt", "*.cer", "*.der", "*.csr", "*.jks", "*.jceks",
    "*.keystore", "*.truststore", "*.bks", "*.ppk", "*.gpg", "*.pgp", "*.asc", "*.age", "*.keychain", "*.keychain-db",
    "*.keytab", "*.mobileprovision", "*.ovpn", "*.kdb", "*.kdbx", "*.agilekeychain", "*.1pif", "*.jwk", "*.jwks",
    "id_rsa*", "id_dsa*", "id_ecdsa*", "id_ed25519*", "*_rsa", "*_dsa", "*_ecdsa", "*_ed25519", "authorized_keys",
    # credentials of tools and services
    ".netrc", "_netrc", ".npmrc", ".yarnrc", ".yarnrc.yml", ".pypirc", "pip.conf", "pip.ini", ".git-credentials",
    ".gitcookies", ".htpasswd", ".htdigest", ".pgpass", "pgpass.conf", ".my.cnf", ".mylogin.cnf", ".dockercfg",
    ".s3cfg", ".boto", ".vault-token", ".vault_pass*", ".terraformrc", "terraform.rc", ".ftpconfig",
    ".remote-sync.json",
    "credentials*", ".credentials*", "*credentials.json", "*credentials.xml", "secret", "secrets", "secret.*",
    "secrets.*", ".secret*", "*.secret", "*.secrets", "kubeconfig*", "*.kubeconfig", "service-account*.json",
    "service_account*.json", "client_secret*.json", "application_default_credentials.json", "google-services.json",
    "googleservice-info.plist", "master.key", "wp-config.php", "auth.json", "oauth*token*.json", "*.pubxml.user",
    ".bash_history", ".zsh_history", ".python_history", ".psql_history", ".mysql_history", ".node_repl_history",
)  # fmt: skip
# Names in the folders where they mean credentials; `*` is any name, also further down.
_FOLDERS = {
    ".ssh": "*",
    ".gnupg": "*",
    ".aws": "*",
    ".azure": "*",
    ".kube": "*",
    ".docker": "config.json",
    ".config/gcloud": "*",
    ".config/gh": "hosts.yml",
    ".config/hub": "*",
    ".git": "*",
    ".cargo": "credentials*",
    ".gem": "credentials*",
    ".m2": "settings*.xml",
    ".gradle": "gradle.properties",
    ".password-store": "*",
}


def _any_of(patterns: Iterable[str]) -> re.Pattern[str]:
    return re.compile("|".join(map(translate, patterns)))


_SECRET = _any_of(_NAMES)
_INSIDE = tuple((tuple(folder.split("/")), _any_of([pattern])) for folder, pattern in _FOLDERS.items())
_PRIVATE_KEY = re.compile(r"-----BEGIN (?:[A-Z0-9]+ )*PRIVATE KEY(?: BLOCK)?-----")
_PUTTY_KEY = re.compile(r"^PuTTY-User-Key-File-\d", re.MULTILINE)


def is_secret_name(parts: Sequence[str]) -> bool:
    """Say whether a path, given in its parts, is that of a file with secrets."""
    lowered = [part.lower().rstrip(". ") for part in parts]  # Windows opens `.env.` as `.env`
    if not lowered:
        return False
    name = lowered[-1].partition(":")[0]  # and `.env::$DATA`
    if _SECRET.fullmatch(name):
        return True
    return any(_is_inside(lowered[:-1], folder) and names.fullmatch(name) for folder, names in _INSIDE)


def holds_private_key(text: str) -> bool:
    """Say whether a text holds the header of a private key."""
    # The plain searches come first: they take microseconds for a long text.
    if "-----BEGIN " in text and _PRIVATE_KEY.search(text):
        return True
    return "PuTTY-User-Key-File-" in text and _PUTTY_KEY.search(text) is not None


def _is_inside(parents: Sequence[str], folder: tuple[str, ...]) -> bool:
    size = len(folder)
    return any(tuple(parents[start : start + size]) == folder for start in range(len(parents) - size + 1))
