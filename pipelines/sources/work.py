"""What is handed to the guarded child for one unit, and what comes back: samples ready to store, and refusals."""

import os
import traceback
from dataclasses import dataclass, field, replace
from typing import Any

from medloom.pipelines.stages.encode import encode
from medloom.pipelines.stages.measure import voxel_digest
from medloom.schemas.b2nd import DEFAULT_CODEC, Codec
from medloom.schemas.errors import BugError, Refusal, Refused
from medloom.schemas.keys import Identity, digest_of
from medloom.schemas.medium import Medium, Sample
from medloom.schemas.origin import TERMS, Origin
from medloom.schemas.volume import Volume


@dataclass(frozen=True)
class UnitWork:
    """One unit to read.

    Attributes:
        unit, source, group, split: from the plan.
        rows: its rows of the tables that its source reads ("article", "figure", "series"), by table.
        paths: path on this machine by url, of its objects in order.
        links: its rows of `LINK`.
        digests: sha256 or token by url, computed where the identity key is.
        stages: what to do to each medium.
        codec: that volumes are stored with.
        pixel_secret: key of the pixel digests of clinical data, derived from the identity key; None for public data.
    """

    unit: str
    source: str
    group: str
    split: str
    rows: dict[str, list[dict[str, Any]]]
    paths: dict[str, str]
    links: tuple[dict[str, Any], ...]
    digests: dict[str, str]
    stages: tuple[Any, ...]
    key_id: str
    pixel_secret: bytes | None = field(default=None, repr=False)
    codec: Codec = DEFAULT_CODEC


@dataclass
class UnitMade:
    """What became of one unit: `taken` candidates, `made` more out of them, each kept as a sample or refused."""

    unit: str
    taken: int = 0
    made: int = 0
    samples: list[Sample] = field(default_factory=list)
    refused: list[Refusal] = field(default_factory=list)


def finish(work: UnitWork, made: UnitMade, medium: Medium) -> None:
    """Run the stages over one medium that was read, encode what comes out, and add it to `made`.

    Raises:
        BugError: a stage failed in a way that is no refusal; it names the stage, the medium and the place in the code.
    """
    try:
        media = [_as_read(medium)]
        for stage in work.stages:
            media = [out for one in media for out in _staged(stage, one)]
        if not media:
            raise Refused("stage.nothing", "the stages gave no medium")
        samples = [encode(_private_pixels(work, one), split=work.split, codec=work.codec) for one in media]
    except Refused as refused:
        made.refused.append(refusal(work, medium.key, "stages", refused))
        return
    made.made += len(samples) - 1
    made.samples.extend(samples)


def origin_of_series(work: UnitWork) -> Origin:
    """Return the origin of a unit that has a row of "series": terms as declared for it, and of all its objects one
    digest. A clinical one names no object: its paths are in `private/`.
    """
    series = work.rows["series"][0]
    return Origin(
        source=work.source,
        source_id=work.unit,
        licence=series["licence"],
        spdx=TERMS[series["terms_id"]].spdx,
        licence_evidence="declared",
        terms_id=series["terms_id"],
        attribution=series["attribution"],
        digest=digest_of(sorted(work.digests[link["url"]] for link in work.links)),
        fetched_object="" if work.pixel_secret else work.links[0]["url"],
        key_id=work.key_id,
    )


def _as_read(medium: Medium) -> Medium:
    """Return a volume with the digest of its values before any stage changes them."""
    if isinstance(medium.content, Volume):
        return replace(medium, voxel_digest=voxel_digest(medium.content))
    return medium


def _staged(stage: Any, medium: Medium) -> list[Medium]:
    try:
        return list(stage(medium))
    except (Refused, MemoryError):
        raise
    except Exception as fault:
        raise BugError(f"stage {type(stage).__name__} on {medium.key}: {raised(fault)}") from fault


def raised(fault: BaseException) -> str:
    """Return what `fault` is and where it was raised, without its message, which may quote a patient's file."""
    places = traceback.extract_tb(fault.__traceback__)
    where = f" at {os.path.basename(places[-1].filename)}:{places[-1].lineno} in {places[-1].name}" if places else ""
    return f"{type(fault).__name__}{where}"


def refusal(work: UnitWork, key: str, stage: str, refused: Refused) -> Refusal:
    """Return the quarantine row of something refused in this unit."""
    size = sum(link["size"] for link in work.links if link["key"] in (key, ""))
    return Refusal(work.unit, key, work.source, stage, refused.reason, refused.detail, size)


def _private_pixels(work: UnitWork, medium: Medium) -> Medium:
    """Return a clinical medium without what anyone who holds the image could compute and look up: its plain digests and
    its perceptual hash, which no key can hide, since near images must have near hashes.
    """
    if work.pixel_secret is None:
        return medium
    who = Identity(work.pixel_secret)
    voxels = who.token("voxels", medium.voxel_digest) if medium.voxel_digest else ""
    return replace(medium, pixel_digest=who.token("pixels", medium.pixel_digest), voxel_digest=voxels, phash="")
