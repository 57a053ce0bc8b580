"""Labelled: a public set of 2-D images with tables of labels beside them; a unit is one image."""

from dataclasses import dataclass, field
from pathlib import Path

from medloom.connectors import dicom, images
from medloom.connectors.label_tables.spec import LabelSet, label_sets
from medloom.pipelines.sources.work import UnitMade, UnitWork, finish, origin_of_series, refusal
from medloom.schemas.errors import ConfigError, Refused
from medloom.schemas.medium import Medium, Picture


@dataclass(frozen=True)
class Labelled:
    """A source of the images of one public set.

    Attributes:
        name: of the source, a column of every row and the start of its units' keys.
        root: folder by path or fsspec URL. It decides no byte, so it is in no fingerprint.
        set_name: one of `label_sets()`.
        version: changes when equal files would give other media.
    """

    name: str
    root: str = field(metadata={"decides": False})
    set_name: str
    version: str = "1"

    kind = "labelled"
    deidentify = "off"  # published without names
    sources_file = ""  # one licence holds for a whole set

    def __post_init__(self) -> None:
        if self.set_name not in label_sets():
            raise ConfigError(f"there is no set {self.set_name!r}; known are {', '.join(label_sets())}")

    @property
    def spec(self) -> LabelSet:
        """What the set is."""
        return label_sets()[self.set_name]

    def read(self, work: UnitWork) -> UnitMade:
        """Return the sample of one image; called in the guarded child."""
        made, link = UnitMade(work.unit, taken=1), work.links[0]
        try:
            picture, transforms = read_image(work.paths[link["url"]])
        except Refused as refused:
            made.refused.append(refusal(work, work.unit, "read", refused))
            return made
        finish(work, made, self._medium(work, picture, transforms))
        return made

    def _medium(self, work: UnitWork, picture: Picture, transforms: tuple[str, ...]) -> Medium:
        series = work.rows["series"][0]
        return Medium(
            key=work.unit, unit=work.unit, group=work.group, origin=origin_of_series(work), content=picture,
            modality=series["modality"], body_part=series["body_part"], plane=series["plane"], text=series["text"],
            transforms=transforms,
        )  # fmt: skip


def read_image(path: str) -> tuple[Picture, tuple[str, ...]]:
    """Return an image file, or the one picture of a DICOM object, and what was done to it.

    Raises:
        Refused: it cannot be read; "labels.many" when a DICOM object holds more than one picture.
    """
    with open(path, "rb") as file:
        kind = images.sniff(file.read(images.HEAD_BYTES))
    if kind != "dicom":
        return images.read_picture(Path(path).read_bytes()), ()
    read = dicom.read_series([path])
    if read.refused:
        _, reason, detail = read.refused[0]
        raise Refused(reason, detail)
    if len(read.stacks) != 1 or not isinstance(read.stacks[0].content, Picture):
        raise Refused("labels.many", "the object is no single picture, so that its labels speak of none")
    return read.stacks[0].content, read.stacks[0].transforms
