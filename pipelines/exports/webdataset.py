"""WebDataset: one example per sample of a tar, its media beside it, for readers that know nothing of MedLoom."""

import json
from collections import Counter
from contextlib import ExitStack
from types import TracebackType
from typing import IO, Any

from medloom.pipelines.exports.stored_examples import MASK, StoredExample, examples_with_files
from medloom.pipelines.exports.writing import Writing
from medloom.schemas.keys import canonical_json
from medloom.schemas.medium import LAYOUTS
from medloom.schemas.shard import BLOCK, tar_header
from medloom.schemas.tables import measured_values

OF_SCANS = True  # they go back to whoever declared them public
TAR_BYTES = 1 << 30  # from which on a tar is ended
_END = bytes(2 * BLOCK)
_OWN = ("example_id", "unit", "group", "split", "task", "language", "generator", "source", "licence", "terms_id")
_OF_MEDIUM = ("key", "modality", "body_part", "plane", "source", "licence", "terms_id", "attribution")


def export(to: Writing) -> None:
    """WebDataset: a tar sample per example, with its media as JPEG, PNG and NIfTI, one field set per folder.

    - `CONFIG/SPLIT-000000.tar`: plain tars. CONFIG says which media an example has: `text` (none), `jpg`, `png`,
      `volume`, `volume-seg`, `jpg2_png` (two JPEG and a PNG); every sample of one has the same fields.
    - `KEY.json`: the example: `turns` with `parts`, each of which has `text` or else `media`, the field that it means,
      with `box`, "" for the whole, as "y0,x0,y1,x1" or "z0,y0,x0,z1,y1,x1", half-open indices of the array; `media`
      with what each field is and whom to name; `regions`, `labels`, `evidence` and `measured` as JSON in text, since
      readers take a column's type from the first samples. Nothing in it is null.
    - `KEY.txt`: the same as text to read, a medium as `<FIELD>`.
    - `KEY.0.jpg`, `KEY.1.png`, …: pictures as stored; `KEY.0.nii.gz` volumes with voxels as stored and their affine,
      `KEY.0.seg.nii.gz` their masks, 4-D when they have several layers. JPEG come first, then PNG, then volumes.
    - `media.jsonl`, `articles.jsonl`: a line per medium and per article with licence and whom to name.

    Examples stand in no order of meaning. A medium is copied into the sample of every example that refers to it.
    """
    to.licensed = "examples and media"
    with _Tars(to) as tars:
        for example, made in examples_with_files(to):
            config, members, copies = _sample(example, made)
            tars.add(config, example.shard.split, example.row["example_id"], members)
            to.noted["copies of media beyond the first, each in the sample of an example"] += sum(
                to.knows(medium) for medium in copies
            )
    to.configs = tars.configs()


def _sample(example: StoredExample, made: list[dict[str, bytes]]) -> tuple[str, dict[str, bytes], tuple[Any, ...]]:
    """Return the folder of an example, its members by field, and its media."""
    layouts = list(LAYOUTS)
    order = sorted(range(len(made)), key=lambda i: layouts.index(example.media[i].row["layout"]))
    fields: dict[str, str] = {}
    media: list[dict[str, Any]] = []
    members: dict[str, bytes] = {}
    for number, i in enumerate(order):
        medium = example.media[i]
        named = {ending: f"{number}.{ending}" for ending in made[i]}
        members |= {name: made[i][ending] for ending, name in named.items()}
        content = next(name for ending, name in named.items() if ending != MASK)
        fields[medium.key] = content
        said = {name: medium.facts[name] for name in _OF_MEDIUM}
        classes = canonical_json(medium.labels) if MASK in named else ""
        media.append({"field": content, "mask": named.get(MASK, ""), **said, "classes": classes})
    facts = _facts(example, fields) | {"media": media}
    text = {"json": (canonical_json(facts) + "\n").encode(), "txt": _text(example, fields).encode("utf-8", "replace")}
    counts = Counter(example.media[i].row["layout"] for i in order)
    config = "_".join(f"{layout}{n}" if n > 1 else layout for layout, n in counts.items()) or "text"
    return config, text | members, example.media


def _facts(example: StoredExample, fields: dict[str, str]) -> dict[str, Any]:
    """Return what the json says, without its media."""
    row = example.row
    said: dict[str, Any] = {name: row[name] or "" for name in _OWN} | {"attribution": example.attribution}
    said["turns"] = [{"role": turn["role"], "parts": _parts(turn, fields)} for turn in row["turns"]]
    regions = [
        {**region, "media": fields[region["media"]], "box": list(region["box"] or ())}
        for region in row["regions"] or ()
    ]
    said |= {"regions": json.dumps(regions), "labels": json.dumps(row["labels"] or [])}
    said |= {"evidence": json.dumps(row["evidence"] or [])}
    return said | {"measured": canonical_json(measured_values(row["measured"]))}


def _parts(turn: dict[str, Any], fields: dict[str, str]) -> list[dict[str, str]]:
    return [
        {
            "text": part["text"] or "",
            "media": fields.get(part["media"] or "", ""),
            "box": ",".join(map(str, part["box"] or ())),
        }
        for part in turn["parts"]
    ]


def _text(example: StoredExample, fields: dict[str, str]) -> str:
    said = []
    for turn in example.row["turns"]:
        words = [part["text"] or f"<{fields[part['media']]}>" for part in turn["parts"]]
        said.append(("" if turn["role"] == "document" else f"{turn['role']}: ") + "\n".join(words))
    return "\n".join(said) + "\n"


class _Tars:
    """The tars that are being written, one per folder and split, each ended at `TAR_BYTES`."""

    def __init__(self, to: Writing):
        self._to = to
        self._open: dict[tuple[str, str], tuple[ExitStack, IO[bytes]]] = {}
        self._written: Counter[tuple[str, str]] = Counter()
        self._sizes: Counter[tuple[str, str]] = Counter()

    def __enter__(self) -> "_Tars":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        for of in sorted(self._open):
            stack, file = self._open[of]
            if kind is None:
                file.write(_END)
            stack.__exit__(kind, value, trace)

    def add(self, config: str, split: str, key: str, members: dict[str, bytes]) -> None:
        """Write the members of one sample side by side."""
        of = (config, split)
        if of not in self._open:
            stack = ExitStack()
            path = f"{config}/{split}-{self._written[of]:06d}.tar"
            self._open[of] = stack, stack.enter_context(self._to.writing(path))
            self._written[of] += 1
        stack, file = self._open[of]
        for field, data in members.items():
            for piece in (tar_header(f"{key}.{field}", len(data)), data, bytes(-len(data) % BLOCK)):
                self._sizes[of] += file.write(piece)
        if self._sizes[of] >= TAR_BYTES:
            file.write(_END)
            del self._open[of], self._sizes[of]
            stack.close()

    def configs(self) -> dict[str, dict[str, str]]:
        """Return the pattern of the tars of each folder and split."""
        found: dict[str, dict[str, str]] = {}
        for config, split in sorted(self._written):
            found.setdefault(config, {})[split] = f"{config}/{split}-[0-9]*.tar"
        return found
