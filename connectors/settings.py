"""Secrets and services: the one place where `MEDLOOM_…` variables are read, so that no option carries a secret."""

import base64
import os
import sys
from pathlib import Path
from urllib.parse import urlsplit

from medloom.schemas.errors import ConfigError
from medloom.schemas.keys import Identity

IDENTITY_KEY = "MEDLOOM_IDENTITY_KEY"
LLM_KEY = "MEDLOOM_LLM_KEY"
NCBI_KEY = "MEDLOOM_NCBI_KEY"
EMAIL = "MEDLOOM_EMAIL"
RATES = "MEDLOOM_RATES"
DICOMWEB_URL = "MEDLOOM_DICOMWEB_URL"
DICOMWEB_TOKEN = "MEDLOOM_DICOMWEB_TOKEN"
DICOMWEB_LOGIN = "MEDLOOM_DICOMWEB_LOGIN"
SHORTEST_SECRET = 32  # characters; `token_hex(32)` gives 64, and 32 random hex digits are already 128 bits

# The services that literature comes from: the variable that names another server (a mirror, a test's) and the real one.
SERVICES: dict[str, tuple[str, str]] = {
    "pmc": ("MEDLOOM_PMC_URL", "https://pmc-oa-opendata.s3.amazonaws.com"),
    "eutils": ("MEDLOOM_EUTILS_URL", "https://eutils.ncbi.nlm.nih.gov/entrez/eutils"),
    "idconv": ("MEDLOOM_IDCONV_URL", "https://pmc.ncbi.nlm.nih.gov/tools/idconv/api/v1/articles"),
    "oai": ("MEDLOOM_OAI_URL", "https://pmc.ncbi.nlm.nih.gov/api/oai/v1/mh"),
    "europepmc": ("MEDLOOM_EUROPEPMC_URL", "https://www.ebi.ac.uk/europepmc/webservices/rest"),
}

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


def service_url(service: str) -> str:
    """Return the base URL of one of `SERVICES`, without a slash at its end.

    Raises:
        ConfigError: the variable of the environment holds no http(s) URL, or one with credentials.
    """
    variable, usual = SERVICES[service]
    return _base_address(variable, os.environ.get(variable, "").strip() or usual, usual)


def _base_address(variable: str, url: str, like: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.username or parts.query or parts.fragment:
        raise ConfigError(f"{variable} is no base address of a service; give one like {like}, without credentials")
    return url.rstrip("/")


def dicomweb_url() -> str:
    """Return the base URL of the DICOMweb server to fetch from, without a slash at its end.

    Raises:
        ConfigError: `MEDLOOM_DICOMWEB_URL` is not set, is no http(s) URL, or one with credentials.
    """
    url = os.environ.get(DICOMWEB_URL, "").strip()
    if not url:
        raise ConfigError(f"{DICOMWEB_URL} is not set: it names the server, like https://pacs.example.org/dicom-web")
    return _base_address(DICOMWEB_URL, url, "https://pacs.example.org/dicom-web")


def dicomweb_authorization() -> str:
    """Return the header by which a DICOMweb server knows who asks: a bearer token, or a login "name:password"; "" for
    neither.
    """
    token, login = (os.environ.get(name, "").strip() for name in (DICOMWEB_TOKEN, DICOMWEB_LOGIN))
    if token:
        return f"Bearer {token}"
    return f"Basic {base64.b64encode(login.encode()).decode()}" if login else ""


def email() -> str:
    """Return the address by which a service can reach whoever asks it much, "" when none is set."""
    return os.environ.get(EMAIL, "").strip()


def ncbi_key() -> str:
    """Return the API key of E-utilities, which allows 10 requests/s in place of 3; "" when none is set."""
    return os.environ.get(NCBI_KEY, "").strip()


def ncbi_params() -> dict[str, str]:
    """Return what NCBI asks every caller to say of itself: tool, and email and api_key where they are set."""
    return {"tool": "medloom"} | {k: v for k, v in (("email", email()), ("api_key", ncbi_key())) if v}


def rates_folder() -> Path:
    """Return where processes share request rates: `MEDLOOM_RATES`, else a folder in the cache of this user."""
    return Path(os.environ.get(RATES, "").strip() or cache_folder() / "rates")


def cache_folder() -> Path:
    """Return where this user's reproducible files may lie: `$XDG_CACHE_HOME/medloom`, else `~/.cache/medloom`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "medloom"


def child_environment() -> dict[str, str]:
    """Return an environment for a child process of ours: it imports what we import, and sees none of our secrets."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("MEDLOOM_")}
    return kept | {"PYTHONPATH": os.pathsep.join(folder for folder in sys.path if folder)}
