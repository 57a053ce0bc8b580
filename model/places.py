"""Where media stand: which bytes of which tar hold each field of a medium, and what its index says of them."""

from collections.abc import Mapping
from dataclasses import dataclass

from medloom.model.byte_source import ByteSource
from medloom.schemas.b2nd_read import ChunkTable


@dataclass(frozen=True)
class FieldPlace:
    """One member of a tar.

    Attributes:
        offset, size: of its bytes in the tar.
        crc32c: of them; None where the index has none.
        chunks: where the chunks of a b2nd stand in it; None for other fields.
        shape, dtype: of the array inside; () and "" where the index does not say.
    """

    offset: int
    size: int
    crc32c: int | None = None
    chunks: ChunkTable | None = None
    shape: tuple[int, ...] = ()
    dtype: str = ""

    @property
    def end(self) -> int:
        """Where the byte after its last one is."""
        return self.offset + self.size


@dataclass(frozen=True, eq=False)
class Place:
    """One medium in a tar.

    Attributes:
        key: of the medium.
        where: reads the tar.
        tar: path of the tar in `where`.
        layout: "jpg", "png", "volume", "volume-seg"; of foreign tars the field that holds the content.
        fields: its members by field.
    """

    key: str
    where: ByteSource
    tar: str
    layout: str
    fields: Mapping[str, FieldPlace]
