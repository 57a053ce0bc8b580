"""Addresses: what may be asked, where a redirect may lead, and how a URL is told without the secrets in it."""

import re
from collections.abc import Mapping

import httpx

from medloom.connectors.rates import PER_SECOND
from medloom.connectors.settings import SERVICES, service_url
from medloom.schemas.errors import Refused

_SECRET = re.compile(r"(?i)\b(api_key|email|patientid|accessionnumber|(study|series|sop)instanceuid)=[^&#\s\"']*&?")
_UID = re.compile(r"/(studies|series|instances)/[0-9.]+")  # DICOMweb names a patient's examinations in its paths


def full_url(url: str, params: Mapping[str, str | int] | None) -> str:
    """Return `url` with `params` in its query.

    Raises:
        Refused("http.url"): it is no http(s) URL, or it carries credentials.
    """
    try:
        parsed = httpx.URL(url)
        full = parsed.copy_merge_params(dict(params)) if params else parsed
    except (httpx.InvalidURL, TypeError):
        raise Refused("http.url", "the address is no URL") from None
    if full.scheme not in ("http", "https") or not full.host or full.userinfo:
        raise Refused("http.url", "the address is no http or https URL, or carries credentials")
    return str(full)


def redirected(url: str, location: str) -> str:
    """Return where a redirect leads.

    Raises:
        Refused("http.redirect"): to another host than those of the known services, or from https to http.
    """
    old = httpx.URL(url)
    try:
        new = old.join(location)
    except httpx.InvalidURL:
        raise Refused("http.redirect", f"{without_secrets(url)} leads to an address that is no URL") from None
    told = without_secrets(url)
    if new.scheme not in ("http", "https") or new.userinfo or (old.scheme == "https" and new.scheme == "http"):
        raise Refused("http.redirect", f"{told} leads away from https, or to an address with credentials")
    if new.host != old.host and not _is_known(new) and not _is_same_bucket(old, new):
        raise Refused("http.redirect", f"{told} leads to {new.host!r}, which is no host of a known service")
    return str(new)


def _is_known(url: httpx.URL) -> bool:
    """Whether a host is one of a known service: named in the table of rates, or by a service's base URL."""
    named = {httpx.URL(service_url(service)).host for service in SERVICES}
    return url.host in named or url.host in PER_SECOND


def _is_same_bucket(old: httpx.URL, new: httpx.URL) -> bool:
    """Whether S3 sends on to the same bucket by the name of its region."""
    (one, _, rest), (other, _, region) = old.host.partition("."), new.host.partition(".")
    is_regional = re.fullmatch(r"s3\.[a-z0-9-]+\.amazonaws\.com", region) is not None
    return one == other and rest == "s3.amazonaws.com" and is_regional


def host_of(url: str) -> str:
    """Return the host of a URL, with its port where that is not the scheme's own."""
    return httpx.URL(url).netloc.decode("ascii")


def without_secrets(text: str) -> str:
    """Return a URL, or a line that quotes one, as it may be kept and told: without the key and email of who asks, and
    without the UIDs of a patient's examinations.
    """
    return _UID.sub(r"/\1/*", _SECRET.sub("", text)).rstrip("?&")
