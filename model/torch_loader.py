"""torch's DataLoader over a stream: worker processes deal the steps among themselves and batches come in order."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from torch.utils.data import DataLoader, IterableDataset

if TYPE_CHECKING:
    from medloom.model.stream import ShardStream


class _Steps(IterableDataset):
    def __init__(self, stream: "ShardStream"):
        super().__init__()
        self.stream = stream

    def __iter__(self) -> Iterator[Any]:
        return iter(self.stream)


def loader(stream: "ShardStream", *, num_workers: int, **options: Any) -> DataLoader:
    """Return a DataLoader whose items are the stream's batches as they are (no collation, no second batching).

    Worker processes are spawned unless `multiprocessing_context` says otherwise: a fork of a process with threads can
    hang.
    """
    if num_workers:
        options.setdefault("multiprocessing_context", "spawn")
    return DataLoader(_Steps(stream), batch_size=None, num_workers=num_workers, **options)
