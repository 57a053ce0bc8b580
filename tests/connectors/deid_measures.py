"""What is left of an original, counted without the engine: attribute by attribute, as pydicom reads them."""

from collections.abc import Iterator

from pydicom.dataset import Dataset

from tests.connectors.deid_objects import testable


def texts(dataset: Dataset) -> dict[int, str]:
    """Tag and value of every attribute of one level that is no sequence and not empty."""
    found = {}
    for element in dataset:
        if element.VR != "SQ" and element.value not in (None, "", b"", []):
            found[int(element.tag)] = str(element.value)
    return found


def levels(dataset: Dataset) -> Iterator[Dataset]:
    """The data set and every item in it."""
    yield dataset
    for element in dataset:
        if element.VR == "SQ":
            for item in element.value:
                yield from levels(item)


def unchanged(original: Dataset, output: Dataset) -> tuple[list[int], int, list[int], int]:
    """Tags of the table that kept their value at top level, of how many; and the same inside sequences.

    Inside, an attribute counts as unchanged when its value there stands anywhere inside the output's sequences.
    """
    tags = set(testable())
    before, after = texts(original), texts(output)
    top = {tag for tag in before if tag in tags}
    inside_before = [(tag, value) for item in list(levels(original))[1:] for tag, value in texts(item).items()]
    inside_after = {pair for item in list(levels(output))[1:] for pair in texts(item).items()}
    nested = [(tag, value) for tag, value in inside_before if tag in tags]
    kept = [tag for tag, value in nested if (tag, value) in inside_after]
    return [tag for tag in top if after.get(tag) == before[tag]], len(top), kept, len(nested)
