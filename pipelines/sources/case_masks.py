"""Case masks: the mask files of one case of a public set become label layers on the grid of its image."""

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from medloom.connectors import dicom, volumes
from medloom.connectors.dicom_placement import Grid
from medloom.connectors.images import HEAD_BYTES, sniff
from medloom.connectors.segmentation_sets.cases import groups_of, in_order
from medloom.connectors.segmentation_sets.planes import mask_plane
from medloom.connectors.segmentation_sets.spec import Part, SetSpec
from medloom.pipelines.sources.placing import on_grid
from medloom.schemas.errors import Refused
from medloom.schemas.volume import Label, Volume


@dataclass(frozen=True)
class CaseFiles:
    """The objects of one case.

    Attributes:
        spec, part: of which set and part of it.
        images, masks: path by url; None for one that cannot be read now.
        prefix: what the set's patterns see before each url.
    """

    spec: SetSpec
    part: Part
    images: Mapping[str, str]
    masks: Mapping[str, str | None]
    prefix: str = ""


@dataclass
class Masks:
    """What became of the masks of a case: layers, names that were labelled at all, what was done, what was refused."""

    layers: list[Volume] = field(default_factory=list)
    labelled: list[str] = field(default_factory=list)
    done: list[str] = field(default_factory=list)
    refused: list[Refused] = field(default_factory=list)


def read_masks(files: CaseFiles, image: Volume, *, raters: str) -> Masks:
    """Return the masks of a case on the grid of `image`; what is refused of them costs no other.

    Args:
        raters: of masks drawn by several: "vote" makes one of what most of them drew, "keep" a layer of each.
    """
    made = Masks()
    kind = files.part.kind
    if kind in ("label_map", "png_stack"):
        _one_map(files, image, made)
    elif kind == "multi_rater":
        _rated(files, image, made, raters)
    else:
        _class_masks(files, image, made)
    if made.layers and files.spec.fix.sides_by_place:
        made.layers = [sided(layer, files.spec.fix.sides_by_place) for layer in made.layers]
    fix = files.spec.fix
    if made.layers:
        made.done += [f"mask-flip({','.join(fix.flip)})"] if fix.flip else []
        made.done += ["mask-by-index"] if fix.by_index else []
    return made


def _one_map(files: CaseFiles, image: Volume, made: Masks) -> None:
    """Add the one label map of a case."""
    try:
        read = _stack if files.part.kind == "png_stack" else _label_file
        values = read(files, image)
        made.layers.append(_named(values, files, image))
    except Refused as refused:
        made.refused.append(refused)
        return
    made.labelled += dict.fromkeys(label.name for label in made.layers[0].labels.values())


def _named(values: np.ndarray, files: CaseFiles, image: Volume) -> Volume:
    """Return a layer of the classes of the part; a range of values becomes the number of its class.

    Raises:
        Refused("seg.values"): it holds a value that the set does not name.
    """
    classes = files.part.classes
    is_exact = all(c.low == c.high for c in classes)
    number = {c: c.low if is_exact else i for i, c in enumerate(classes, 1)}
    present = sorted({int(v) for plane in values for v in np.unique(plane)} - {0})
    becomes = {v: next((number[c] for c in classes if c.low <= v <= c.high), 0) for v in present}
    unknown = [v for v, to in becomes.items() if not to]
    if unknown:
        raise Refused("seg.values", f"values {', '.join(map(str, unknown[:8]))} are no class of the set")
    if any(v != to for v, to in becomes.items()):
        table = np.zeros(max(present) + 1, np.uint8)
        table[list(becomes)] = list(becomes.values())
        values = table[values]
    labels = {number[c]: files.spec.label(c.stated) for c in classes}
    return Volume(values, image.affine, units="label", kind="label", labels=labels)


def _label_file(files: CaseFiles, image: Volume) -> np.ndarray:
    """Return the values of the one label map file of a case, on the grid of the image."""
    layers = _volumes_of(files, list(files.masks))
    if len(layers) != 1:
        raise Refused("seg.layers", f"a label map of {len(layers)} volumes where the set has one")
    return on_grid(layers[0], image, files.spec.fix).array


def _volumes_of(files: CaseFiles, urls: Sequence[str]) -> list[Volume]:
    """Return the label maps of one file, and of the file of its voxels where it has one beside it."""
    paths = {url: files.masks[url] for url in urls}
    known = {os.path.basename(url): path for url, path in paths.items() if path is not None}
    first = paths[urls[0]]
    if first is None or len(known) < len(paths):
        raise Refused("source.unreadable", "a mask cannot be read now")
    with open(first, "rb") as file:
        kind = sniff(file.read(HEAD_BYTES))
    if files.spec.fix.whole:
        read = volumes.read_volumes(first, kind, companions=known)
        return [replace(one, array=_whole(one.array), units="label", kind="label") for one in read]
    return volumes.read_labels(first, kind, companions=known)


def _whole(values: np.ndarray) -> np.ndarray:
    """Return values with a stored slope's rounding error as classes."""
    rounded = np.rint(values)
    if np.abs(values - rounded).max() > 0.25 or rounded.min() < 0 or rounded.max() > 255:
        raise Refused("seg.values", "values are not near whole numbers from 0 to 255")
    return rounded.astype(np.uint8)


def _class_masks(files: CaseFiles, image: Volume, made: Masks) -> None:
    """Add the structures of a case that has a file of each, or a folder of slices named as the image's."""
    urls: dict[str, list[str]] = {}
    for url in files.masks:
        urls.setdefault(groups_of(files.part.mask, url, prefix=files.prefix)["label"], []).append(url)
    packed = _Packed(files, image, urls)
    slices = _Slices(files, image) if files.part.kind == "per_class_dicom" else None
    for stated in packed.numbers:
        try:
            mask = slices.filled(urls[stated]) != 0 if slices else _drawn_in(files, urls[stated], image)
        except Refused as refused:
            made.refused.append(refused)
            continue
        packed.add(stated, mask)
    packed.give(made)


def _drawn_in(files: CaseFiles, urls: Sequence[str], image: Volume) -> np.ndarray:
    """Return what a file of one structure holds, in any of its layers, on the grid of the image."""
    layers = [on_grid(layer, image, files.spec.fix) for layer in _volumes_of(files, urls)]
    mask = layers[0].array != 0
    for layer in layers[1:]:
        mask |= layer.array != 0
    return mask


def _stack(files: CaseFiles, image: Volume) -> np.ndarray:
    return _Slices(files, image).filled(list(files.masks))


class _Slices:
    """Where each slice of a case's image lies in its volume, by the slice's name; planes of masks go there."""

    def __init__(self, files: CaseFiles, image: Volume):
        self._files, self._shape, self._grid = files, image.shape, Grid(image)
        self._headers = {self._name(url, files.part.image): dicom.read_header(p) for url, p in files.images.items()}

    def _name(self, url: str, pattern: str) -> str:
        return groups_of(pattern, url, prefix=self._files.prefix)["slice"]

    def filled(self, urls: Sequence[str]) -> np.ndarray:
        """Return the planes at `urls` in the image's volume.

        A plane has the name of its slice, or is, where none has, the one of the same rank in the order of names.

        Raises:
            Refused("seg.slices"): there are more or fewer planes than slices, or two of one slice.
            Refused("seg.grid"): a plane is not of its slice's size, or its slice is none of the image's.
        """
        names = {url: self._name(url, self._files.part.mask) for url in urls}
        if not set(names.values()) <= set(self._headers):
            ranked = sorted(self._headers, key=in_order)
            in_rank = sorted(names, key=lambda url: in_order(names[url]))
            if len(ranked) != len(in_rank):
                raise Refused("seg.slices", f"{len(in_rank)} planes of a mask for {len(ranked)} slices")
            names = dict(zip(in_rank, ranked, strict=True))
        if len(names) != len(self._headers) or len(set(names.values())) != len(names):
            raise Refused("seg.slices", f"{len(names)} planes of a mask for {len(self._headers)} slices")
        found = np.zeros(self._shape, np.uint8)
        for url, name in names.items():
            self._fill(found, self._files.masks[url], name)
        return found

    def _fill(self, found: np.ndarray, path: str | None, name: str) -> None:
        header = self._headers[name]
        if path is None:
            raise Refused("source.unreadable", "a plane of a mask cannot be read now")
        plane = mask_plane(path)
        if plane.shape != (header.rows, header.columns):
            raise Refused("seg.grid", f"a plane of {plane.shape} for a slice of {(header.rows, header.columns)}")
        at = self._grid.place(
            header.position, orientation=header.orientation, spacing=header.pixel_spacing, shape=plane.shape
        )
        target = at.target(found, plane.shape)
        if target is None:
            raise Refused("seg.grid", "a slice that is none of the image's")
        into, (rows, columns) = target
        into[...] = plane[rows, columns]


def _rated(files: CaseFiles, image: Volume, made: Masks, raters: str) -> None:
    """Add what several raters drew: by vote, what more than half of them drew, or a layer of each."""
    tasks: dict[str, dict[int, np.ndarray]] = {}
    for url in files.masks:
        groups = groups_of(files.part.mask, url, prefix=files.prefix)
        stated = groups["label"] if int(groups["task"]) == 1 else f"{groups['label']} {int(groups['task'])}"
        try:
            tasks.setdefault(stated, {})[int(groups["rater"])] = _drawn_in(files, [url], image)
        except Refused as refused:
            made.refused.append(refused)
    packed = _Packed(files, image, tasks)
    for stated, masks in tasks.items():
        if raters == "vote" and masks:
            packed.add(stated, np.sum(list(masks.values()), axis=0) * 2 > len(masks))
            made.done.append(f"vote({len(masks)})")
        elif raters == "keep":
            for rater, mask in masks.items():
                packed.add(stated, mask, said=f"{stated} (rater {rater})", alone=True)
    packed.give(made)


class _Packed:
    """Structures as layers: each in the first in which it touches no other, so that none hides another.

    Attributes:
        numbers: the value of each structure, ascending: its place in the part's list, others after these.
    """

    def __init__(self, files: CaseFiles, image: Volume, stated: Iterable[str]):
        listed = {c.stated: c.low for c in files.part.classes}
        last = max(listed.values(), default=0)
        others = sorted(set(stated) - set(listed), key=in_order)
        numbers = listed | {name: last + i for i, name in enumerate(others, 1)}
        self.numbers = {name: numbers[name] for name in sorted(stated, key=numbers.__getitem__)}
        self._files, self._image = files, image
        self._dtype = np.uint8 if max(numbers.values(), default=0) <= 255 else np.uint16
        self._layers: list[tuple[np.ndarray, dict[int, Label]]] = []

    def add(self, stated: str, mask: np.ndarray, *, said: str = "", alone: bool = False) -> None:
        """Add one structure, its mask on the image's grid; `alone` gives it a layer of its own."""
        box, value = _box(mask), self.numbers[stated]
        part = mask[box]
        free = (layer for layer in self._layers if not alone and not layer[0][box][part].any())
        layer = next(free, None)
        if layer is None:
            layer = np.zeros(self._image.shape, self._dtype), {}
            self._layers.append(layer)
        layer[0][box][part] = value
        found = self._files.spec.label(stated)
        layer[1][value] = replace(found, stated=said or stated)

    def give(self, made: Masks) -> None:
        """Add the layers and the names of what was labelled to `made`."""
        for array, labels in self._layers:
            made.layers.append(Volume(array, self._image.affine, units="label", kind="label", labels=labels))
        names = [label.name for _, labels in self._layers for label in labels.values()]
        made.labelled += dict.fromkeys(names)


def _box(mask: np.ndarray) -> tuple[slice, ...]:
    """Return the smallest box that holds a mask, an empty one for an empty mask."""
    box = []
    for axis in range(3):
        (at,) = np.nonzero(mask.any(axis=tuple(a for a in range(3) if a != axis)))
        box.append(slice(int(at[0]), int(at[-1]) + 1) if len(at) else slice(0, 0))
    return tuple(box)


def sided(layer: Volume, values: Sequence[int]) -> Volume:
    """Return a layer in which of two values of one paired structure the one further to the left is the left one.

    Where only one of them is there, its side is not known and stays open.
    """
    middles = {}
    for value in values:
        z, y, x = np.nonzero(layer.array == value)
        if len(x):
            middles[value] = float((layer.affine @ [x.mean(), y.mean(), z.mean(), 1.0])[0])
    if len(middles) != 2:
        return layer
    left = max(middles, key=lambda value: middles[value])  # LPS: x grows to the left
    labels = dict(layer.labels)
    for value in middles:
        labels[value] = replace(labels[value], side="left" if value == left else "right")
    return replace(layer, labels=labels)
