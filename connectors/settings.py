"""Secrets: the one place where `MEDLOOM_…` variables of the environment are read, so that no option carries one."""

import os
import sys
from pathlib import Path

from medloom.schemas.errors import ConfigError
from medloom.schemas.keys import Identity

IDENTITY_KEY = "MEDLOOM_IDENTITY_KEY"
LLM_KEY = "MEDLOOM_LLM_KEY"
SHORTEST_SECRET = 32  # characters; `token_hex(32)` gives 64, and 32 random hex digits are already 128 bits

_MAKE_ONE = """python -c "import secrets; print(secrets.token_hex(32))\""""


def identity_secret() -> bytes:
    """Return the secret by which patients, series and files become tokens.

    Raises:
        ConfigError: `MEDLOOM_IDENTITY_KEY` is not set, or shorter than `SHORTEST_SECRET` characters.
    """
    secret = os.environ.get(IDENTITY_KEY, "").strip()
    if not secret:
        raise ConfigError(
            f"{IDENTITY_KEY} is not set: it is the secret by which patients, studies, series and files become tokens, "
            "so that nobody without it can tell who is meant or test a guessed PatientID; make one with "
            f"`{_MAKE_ONE}`, export it, and keep it where the data are kept, since another key gives other tokens; "
            "for public data that need none, --set deidentify=off"
        )
    if len(secret) < SHORTEST_SECRET:
        raise ConfigError(
            f"{IDENTITY_KEY} holds {len(secret)} characters, and at least {SHORTEST_SECRET} are needed, since a short "
            f"secret can be found by trying all; make one with `{_MAKE_ONE}`"
        )
    return secret.encode()


def identity(deidentify: str) -> Identity:
    """Return what makes tokens: keyed for `deidentify="on"`, plain hashes that hide nothing for "off" (public data).

    Raises:
        ConfigError: another word, or "on" without a usable `MEDLOOM_IDENTITY_KEY`.
    """
    if deidentify == "on":
        return Identity(identity_secret())
    if deidentify == "off":
        return Identity()
    raise ConfigError(f"deidentify={deidentify!r} is neither 'on' nor 'off'; 'off' is for public data only")


def llm_key() -> str:
    """Return the key that a language model's server asks for, "" when none is set (a server of one's own)."""
    return os.environ.get(LLM_KEY, "").strip()


def cache_folder() -> Path:
    """Return where this user's reproducible files may lie: `$XDG_CACHE_HOME/medloom`, else `~/.cache/medloom`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "medloom"


def child_environment() -> dict[str, str]:
    """Return an environment for a child process of ours: it imports what we import, and sees none of our secrets."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("MEDLOOM_")}
    return kept | {"PYTHONPATH": os.pathsep.join(folder for folder in sys.path if folder)}
