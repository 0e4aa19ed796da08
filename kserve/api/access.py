"""API keys: a file with the hash of each, read again when the server is told to reload.

A line of the file, as `kserve key NAME` writes it; what may follow the hash are limits of this key:

    NAME sha256:HEX [rate=TEXTS_A_MINUTE] [max_characters=N] [quota=CHARACTERS] [admin]
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from kserve.errors import InvalidKey, KeyNeeded, SettingsError

_NAME = re.compile(r"[\w.@-]{1,64}")
_HASH = re.compile(r"sha256:([0-9a-f]{64})")
_LIMITS = ("rate", "max_characters", "quota")
_SCHEMES = ("bearer", "deepl-auth-key")


@dataclass(frozen=True)
class Caller:
    """Who asks, and what is allowed; a limit that is None is the server's own."""

    name: str  # a key's name, or an address
    has_key: bool = False
    rate: int | None = None
    max_characters: int | None = None
    quota: int | None = None
    admin: bool = False


class Access:
    """The keys of a file; without one everybody may ask."""

    def __init__(self, path: Path | None, required: bool) -> None:
        self._path = path
        self.required = required and path is not None
        self._keys: dict[str, Caller] = {}
        self.read()

    @property
    def uses_keys(self) -> bool:
        """Whether keys mean anything here."""
        return self._path is not None

    def read(self) -> None:
        """Read the file again; when it cannot be used, the keys stay as they are.

        Raises:
            SettingsError: with the line that is wrong.
        """
        if self._path is None:
            return
        try:
            lines = self._path.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise SettingsError(f"cannot read the keys in {self._path}: {error}; see `kserve key`") from None
        keys: dict[str, Caller] = {}
        for number, line in enumerate(lines, 1):
            text = line.partition("#")[0].split()
            if text:
                digest, caller = _entry(text, f"{self._path}, line {number}")
                keys[digest] = caller
        self._keys = keys

    def caller(self, key: str | None, address: str) -> Caller:
        """Who has this key; without one, whoever is at the address.

        Raises:
            InvalidKey: no such key.
            KeyNeeded: none was given, and one is needed.
        """
        if self._path is None:
            return Caller(address)
        if not key:
            if self.required:
                raise KeyNeeded("Please contact the server operator to get an API key")
            return Caller(address)
        digest = key_hash(key)
        found = None
        # All are compared, so that the time says nothing about which.
        for known, caller in self._keys.items():
            if hmac.compare_digest(digest, known):
                found = caller
        if found is None:
            raise InvalidKey("Invalid API key")
        return found


def key_in_headers(headers: Mapping[str, str]) -> str | None:
    """The key of `Authorization: Bearer …` (or `DeepL-Auth-Key …`) or `X-API-Key`."""
    scheme, _, key = headers.get("authorization", "").partition(" ")
    if scheme.lower() in _SCHEMES and key.strip():
        return key.strip()
    return headers.get("x-api-key") or None


def key_hash(key: str) -> str:
    """What the file holds of a key: keys are random, so a plain hash cannot be turned back."""
    return hashlib.sha256(key.encode("utf-8", "replace")).hexdigest()


def add_key(path: Path, name: str) -> str:
    """A new random key; the file, which need not exist, gets a line with its hash.

    Raises:
        SettingsError: the name cannot stand in the file, or is there; the file cannot be written.
    """
    if not _NAME.fullmatch(name):
        raise SettingsError(f"{name!r} is no name for a key; use up to 64 letters, digits and . _ @ -")
    key = secrets.token_urlsafe(32)
    try:
        old = path.read_text(encoding="utf-8") if path.exists() else ""
        if name in [line.split()[0] for line in old.splitlines() if line.split()]:
            raise SettingsError(f"{path} has a key named {name}; take another name, or remove its line")
        line = f"{name} sha256:{key_hash(key)}\n"
        draft = path.with_name(f".{path.name}.part")
        draft.touch(0o600)
        draft.write_text(old + ("" if old.endswith("\n") or not old else "\n") + line, encoding="utf-8")
        draft.replace(path)
    except OSError as error:
        raise SettingsError(f"cannot write {path}: {error.strerror}") from None
    return key


def _entry(text: list[str], where: str) -> tuple[str, Caller]:
    name, *rest = text
    digest = _HASH.fullmatch(rest[0]) if rest else None
    if not _NAME.fullmatch(name) or digest is None:
        raise SettingsError(f"{where}: expected NAME sha256:HEX, as `kserve key NAME` writes it")
    limits: dict[str, int] = {}
    admin = False
    for word in rest[1:]:
        limit, _, value = word.partition("=")
        if limit in _LIMITS and value.isdecimal() and int(value) > 0:
            limits[limit] = int(value)
        elif word == "admin":
            admin = True
        else:
            raise SettingsError(f"{where}: {word!r} is none of {', '.join(_LIMITS)} (=NUMBER) or admin")
    return digest[1], Caller(name, True, admin=admin, **limits)
