"""NIfTI: volumes and masks back as files that every viewer opens, with what they are and where they came from."""

import json
from typing import Any

import numpy as np

from medloom.connectors.nifti_writing import is_sheared, write_nifti
from medloom.pipelines.exports.stored import StoredMedium
from medloom.pipelines.exports.writing import Writing
from medloom.pipelines.links import Links, links_by_unit
from medloom.schemas.shard import ShardName

OF_SCANS = True  # they go back to whoever declared them public
UNFIT_TOO = True  # it converts and does not train: what a policy finds unfit to train on goes too
INDEX = "index.csv"
MASKS = ("mask", "seg", "rtstruct")  # `LINK.key` of what masks are made of


def export(to: Writing) -> None:
    """NIfTI: every volume as `.nii.gz` with its stored voxels and affine, masks beside it, pictures as they are.

    - `volumes/KEY.nii.gz`: the voxels as stored, in their type; the sform is the affine, the qform too unless the grid
      is sheared.
    - `volumes/KEY_seg.nii.gz`: its masks, 4-D when they have several layers; `KEY_seg.json` says what each value of
      each layer is, and which classes were labelled at all.
    - `pictures/KEY.jpg` or `.png`: pictures as stored.
    - `index.csv`: a row per file: `file`, `kind` (volume, mask, picture), `key`, `split`, `source` (path at the source
      of the first object it was made of; the unit's token where the build de-identified it), `objects` (how many it
      was made of) and `series` (what the source calls it), both "" for a de-identified one; `withheld`: why the
      release holds it back from training (a duplicate, too small), "" when it does not.
    - `media.jsonl`: a line per medium with shape, spacing, exact affine, licence and whom to name.

    Examples have no place in it.
    """
    links, withheld = _Links(), to.out.withheld()
    for medium in to.media():
        _write(to, medium, links.of(medium), {"withheld": withheld.get(medium.key, "")})


def _write(to: Writing, medium: StoredMedium, links: list[dict[str, Any]], state: dict[str, str]) -> None:
    source = _source(medium, links, masks=False) | state
    if medium.is_picture:
        name = f"pictures/{medium.key}.{medium.row['layout']}"
        to.file(name, medium.picture())
        _row(to, name, "picture", medium, source)
        to.stored(medium, {"picture": name})
        return
    files = {"volume": f"volumes/{medium.key}.nii.gz"}
    with to.writing(files["volume"]) as file:
        write_nifti([medium.volume()], file)
    is_odd = is_sheared(np.array(medium.facts["affine"]))
    to.noted["volumes on a sheared grid, which ITK and what is built on it refuse to read"] += is_odd
    _row(to, files["volume"], "volume", medium, source)
    if layers := medium.masks():
        files["mask"] = f"volumes/{medium.key}_seg.nii.gz"
        with to.writing(files["mask"]) as file:
            write_nifti(layers, file)
        table = {"key": medium.key, "labelled": medium.row["labelled"] or [], "labels": medium.labels}
        files["labels"] = f"volumes/{medium.key}_seg.json"
        to.file(files["labels"], (json.dumps(table, indent=1, sort_keys=True) + "\n").encode())
        _row(to, files["mask"], "mask", medium, _source(medium, links, masks=True) | state)
    to.stored(medium, files)


def _row(to: Writing, name: str, kind: str, medium: StoredMedium, source: dict[str, str]) -> None:
    to.row(INDEX, {"file": name, "kind": kind, "key": medium.key, "split": medium.shard.split, **source})


class _Links:
    """The private links of the build's units, of one shard at a time."""

    def __init__(self) -> None:
        self._shard: ShardName | None = None
        self._by_unit: Links = {}

    def of(self, medium: StoredMedium) -> list[dict[str, Any]]:
        """Return the links of a medium's unit; none for a de-identified one, or where the build keeps none."""
        if medium.facts["key_id"] != "none":
            return []
        if medium.shard != self._shard:
            units = [unit["unit"] for unit in medium.build.shards[medium.shard]]
            self._shard, self._by_unit = medium.shard, links_by_unit(medium.build.store, units)
        return self._by_unit.get(medium.row["unit"], [])


def _source(medium: StoredMedium, links: list[dict[str, Any]], *, masks: bool) -> dict[str, str]:
    """Return where a medium, or its masks, came from; nothing but a token when it was de-identified."""
    own = [link for link in links if link["key"] == medium.key]
    mine = own or [link for link in links if (link["key"] in MASKS) == masks]
    if not mine:  # de-identified, or a copy without what is private
        return {"source": medium.facts["fetched_object"] or str(medium.row["unit"]), "objects": "", "series": ""}
    return {"source": mine[0]["url"], "objects": str(len(mine)), "series": mine[0]["original_unit"]}
