"""Keys, tokens and digests: how things are named, everywhere the same, stable when neighbours change."""

import base64
import hashlib
import hmac
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any

KEY_PATTERN = re.compile(r"[a-z0-9_-]{1,64}")  # no dots (webdataset cuts there), lower case, ustar-safe
TOKEN_LENGTH = 16


def is_key(text: str) -> bool:
    """Whether `text` may name a unit or a medium."""
    return KEY_PATTERN.fullmatch(text) is not None


def slug(text: str) -> str:
    """Return `text` lower-cased with every run of other characters as one `-`; it may be empty or too long."""
    return re.sub(r"[^a-z0-9_]+", "-", text.lower()).strip("-")


def figure_key(unit: str, xml_id: str, fallback: str) -> str:
    """Return the key of a figure: unit + xml id (`pmc7500000-1-f2`), else unit + 12 hex digits of sha256(`fallback`).

    The fallback is used when the id is missing or the whole would not be a key.
    """
    key = f"{unit}-{slug(xml_id)}" if slug(xml_id) else ""
    return key if is_key(key) else f"{unit[:51]}-{sha256_hex(fallback)[:12]}"


def example_id(task: str, task_fingerprint: str, unit: str, ordinal: str) -> str:
    """Return `task` + `-` + 24 hex digits, the same for the same fingerprint, unit and ordinal."""
    return f"{task}-{sha256_hex(f'{task_fingerprint}|{unit}|{ordinal}')[:24]}"


def sha256_hex(data: bytes | str) -> str:
    """Return the sha256 of `data` (text as UTF-8) in 64 hex digits."""
    return hashlib.sha256(data.encode() if isinstance(data, str) else data).hexdigest()


def canonical_json(value: Any) -> str:
    """Return `value` as JSON that is the same for equal values: sorted keys, no spaces, dataclasses by their fields."""
    return json.dumps(plain(value), sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def plain(value: Any) -> Any:
    """Return `value` made of dict, list, str, int, float, bool and None only.

    A dataclass becomes its fields plus `"is"`, its class name, so that two stages with equal fields differ.
    """
    if is_dataclass(value) and not isinstance(value, type):
        shown = {f.name: plain(getattr(value, f.name)) for f in fields(value) if f.metadata.get("decides", True)}
        return {"is": type(value).__name__, **shown}
    if isinstance(value, dict):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    if isinstance(value, (set, frozenset)):
        return sorted(plain(v) for v in value)
    if value is None or isinstance(value, (str, int, float, bool)):
        return value
    raise TypeError(f"{type(value).__name__} has no canonical form")


def fingerprint(*parts: Any) -> str:
    """Return 64 hex digits that change when any of `parts` does (see `canonical_json`)."""
    return sha256_hex(canonical_json(list(parts)))


def digest_of(parts: Iterable[str]) -> str:
    """Return one sha256 over an ordered list of digests or names."""
    return sha256_hex("\n".join(parts))


@dataclass(frozen=True)
class Identity:
    """Turns what identifies (a PatientID, a UID, a path) into tokens.

    With a secret, tokens are HMAC-SHA256 and cannot be recomputed without it; without one (`deidentify=off`, public
    data) they are plain SHA-256 of the same text, which hides nothing and says so by `key_id` "none".
    """

    secret: bytes | None = field(default=None, repr=False)

    @property
    def key_id(self) -> str:
        """8 hex digits that tell two secrets apart and give neither away; "none" without a secret."""
        return self._digest("key_id", "medloom")[:4].hex() if self.secret else "none"

    def token(self, kind: str, value: str) -> str:
        """Return 16 base32 characters for `value` of `kind` ("patient", "series", "object", "digest")."""
        return base64.b32encode(self._digest(kind, value)[:10]).decode().lower()

    def number(self, kind: str, value: str, *, bits: int) -> int:
        """Return a whole number below 2 ** `bits` for `value` of `kind` ("uid", "date-shift"); `bits`: 8 to 256."""
        return int.from_bytes(self._digest(kind, value)[: bits // 8])

    def _digest(self, kind: str, value: str) -> bytes:
        message = f"{kind}\x00{value}".encode()
        if self.secret is None:
            return hashlib.sha256(message).digest()
        return hmac.new(self.secret, message, hashlib.sha256).digest()
