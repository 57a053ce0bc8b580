"""Batch: what one rank gets of a global batch, and which of its examples stand together in a pack."""

from dataclasses import dataclass
from typing import Any

from medloom.model.streamed import StreamedExample


@dataclass(frozen=True, eq=False)
class Batch:
    """One rank's share of a global batch.

    Attributes:
        step: number of the global batch in the run, from 0.
        examples: in the order of the plan.
        keys: their example_ids.
        lane: what its examples have in common ("2d", "3d", …), "" when everything may share a batch.
        packs: for each pack of this rank, places in `examples`, in order; without packing one pack per example. A pack
            whose examples were all withheld since the run began is ().
    """

    step: int
    examples: tuple[StreamedExample, ...]
    keys: tuple[str, ...]
    lane: str = ""
    packs: tuple[tuple[int, ...], ...] = ()

    def to(self, device: object, **options: Any) -> "Batch":
        """Return itself: frameworks such as Lightning ask whatever they are given to move, and these are arrays in the
        memory of the host, of the stored dtype, until whoever trains makes tensors of them.
        """
        return self
