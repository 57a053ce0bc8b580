"""What `data` means: a release, a folder or URL that holds one, or tars of anybody's making."""

from collections.abc import Sequence

from medloom.schemas.errors import SourceError
from medloom.schemas.release import Release, find_release
from medloom.schemas.store import Store
from medloom.schemas.tar_set import TarSet, holds_tars

Data = Release | TarSet


def open_data(data: "str | Sequence[str] | Data", *, number: int | None = None) -> Data:
    """Return the release (its newest, or that of `number`) or the set of tars that `data` names.

    A folder of releases or of a build means its newest release; a list, a pattern (`*`, `{000..012}`), a `.tar`, a
    folder of tars, or one that `medloom index` wrote, means those tars, of which each sample is an example.

    Raises:
        SourceError: there is nothing of the kind.
    """
    if isinstance(data, Release | TarSet):
        return data
    if not isinstance(data, str):
        return _of_nobody(TarSet([str(url) for url in data]))
    if number is not None:
        return Release(data, number=number)
    found = find_release(data)
    if found is not None:
        return found
    if not Store(data).names("plan"):
        if holds_tars(data):
            return _of_nobody(TarSet(data))
        raise SourceError(
            f"{data} holds no release and no tars; `medloom release BUILD` makes a release, and a list or pattern of "
            "tars can be streamed as it is"
        )
    raise SourceError(f"{data} is a build without a release; `medloom release {data}` makes one")


def _of_nobody(tars: TarSet) -> TarSet:
    """Return tars that are of no build: those are not for the taking, since only a release says what of them is live.

    Raises:
        SourceError: they lie in a build.
    """
    for folder in sorted({tar.url.rpartition("/")[0] for tar in tars.tars}):
        build, _, name = folder.rpartition("/")
        if name == "media" and build and Store(build).names("plan"):
            raise SourceError(
                f"{folder} holds the tars of a build, where some may be withdrawn; stream {build}, whose release says "
                "what is live"
            )
    return tars
