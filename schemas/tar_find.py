"""Which tars a list, a pattern, a folder or a URL means, and what their names and folders say of them."""

import os
import posixpath
from collections.abc import Iterable, Sequence
from dataclasses import replace

import fsspec

from medloom.schemas.errors import ConfigError, SourceError
from medloom.schemas.store import Store
from medloom.schemas.tar_names import MAX_TARS, expand, is_pattern, split_of
from medloom.schemas.tar_read import TarFile

_COMPRESSED = (".tar.gz", ".tgz", ".tar.zst", ".tar.xz", ".tar.bz2")


def find_tars(data: str | Sequence[str]) -> list[TarFile]:
    """Return the tars that URLs mean, not yet walked: a folder's and a pattern's by name, a list's in its order.

    Raises:
        SourceError: a URL means no tar, or a compressed one.
        ConfigError: a tar is named twice.
    """
    asked = [data] if isinstance(data, str) else list(data)
    urls = [url for one in asked for url in _urls_of(one)]
    if not urls:
        raise SourceError("no tar is named; name some, a pattern of them or a folder that holds them")
    if len(urls) > MAX_TARS:
        raise SourceError(f"{len(urls)} tars are more than {MAX_TARS}; name fewer")
    twice = sorted({url for url in urls if urls.count(url) > 1}) if len(set(urls)) < len(urls) else []
    if twice:
        raise ConfigError(f"{twice[0]} is named twice; to see it more often give its source more weight in mix")
    return _named(urls)


def _urls_of(asked: str) -> Iterable[str]:
    if is_compressed(asked):
        raise SourceError(f"{asked} is compressed, and no member of it can be read alone; unpack it to a plain .tar")
    if not is_pattern(asked):
        found = [asked] if is_tar(asked) else tars_in(asked)
        if not found:
            raise SourceError(f"{asked} holds no .tar; name tars, a pattern such as train-{{000000..000012}}.tar, "
                              "or their folder")  # fmt: skip
        return [_absolute(url) for url in found]
    found = []
    for name in expand(asked):
        if any(sign in name for sign in "*[") or ("?" in name and "://" not in name):
            hits = sorted(url for url in _globbed(name) if is_tar(url))
            if not hits:
                raise SourceError(f"no .tar matches {name}")
            found += hits
        else:
            found.append(name)
    return [_absolute(url) for url in found]


def _absolute(url: str) -> str:
    return url if "://" in url else os.path.abspath(url)


def _globbed(pattern: str) -> list[str]:
    fs, path = fsspec.core.url_to_fs(pattern)
    return [_full(fs, found, pattern) for found in fs.glob(path)]


def tars_in(folder: str) -> list[str]:
    """Return the URLs of the tars in a folder and its folders, by name; none where it cannot be listed."""
    store = Store(folder)
    try:
        found = store.fs.find(store.root)
    except (FileNotFoundError, NotADirectoryError, NotImplementedError):
        return []
    return sorted(url for url in (_full(store.fs, path, folder) for path in found) if is_tar(url))


def _full(fs: fsspec.AbstractFileSystem, path: str, like: str) -> str:
    return str(fs.unstrip_protocol(path)) if "://" in like and not path.startswith(("http://", "https://")) else path


def _named(urls: list[str]) -> list[TarFile]:
    """Give each tar the folder that all of its place have in common, its name in it, its split and its source."""
    places = {url: url.partition("://")[0] + "://" + url.partition("://")[2].split("/")[0] if "://" in url else ""
              for url in urls}  # fmt: skip
    folders = {
        place: _common([posixpath.dirname(url) for url in urls if places[url] == place])
        for place in set(places.values())
    }
    tars = []
    for url in urls:
        folder = folders[places[url]]
        name = url[len(folder) :].lstrip("/")
        tars.append(TarFile(folder=folder, name=name, split=split_of(url), source=""))
    parents = {posixpath.dirname(tar.url) for tar in tars}
    short = {parent: posixpath.basename(parent) or "tars" for parent in parents}
    if len(set(short.values())) < len(parents):
        short = {posixpath.dirname(tar.url): posixpath.dirname(tar.name) or short[tar.folder] for tar in tars}
    return [replace(tar, source=short[posixpath.dirname(tar.url)]) for tar in tars]


def _common(folders: list[str]) -> str:
    """Return the longest folder that holds all of `folders`."""
    first, last = (folder.split("/") for folder in (min(folders), max(folders)))
    shared = 0
    while shared < min(len(first), len(last)) and first[shared] == last[shared]:
        shared += 1
    return "/".join(first[:shared]) or "/"


def is_tar(url: str) -> bool:
    """Whether a URL ends as a tar's does; what a server asks for behind a "?" aside."""
    return _bare(url).endswith(".tar")


def is_compressed(url: str) -> bool:
    """Whether a URL ends as a compressed tar's does."""
    return _bare(url).endswith(_COMPRESSED)


def _bare(url: str) -> str:
    return url.partition("?")[0] if "://" in url else url
