"""torch's DataLoader over a stream: worker processes deal the steps among themselves and batches come in order."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from torch.utils.data import DataLoader, IterableDataset

from medloom.schemas.errors import ConfigError

if TYPE_CHECKING:
    from medloom.model.stream import Made, ShardStream


class _Steps(IterableDataset):
    def __init__(self, stream: "ShardStream"):
        super().__init__()
        self.stream = stream

    def __iter__(self) -> "Iterator[Made]":
        return self.stream.produce()


class _Loader(DataLoader):
    """Keeps the stream where its user is: the copies in worker processes are ahead and know their own steps only."""

    dataset: _Steps

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        yield from self.dataset.stream.receive(super().__iter__())

    def __len__(self) -> int:
        return len(self.dataset.stream)


def loader(stream: "ShardStream", *, num_workers: int, **options: Any) -> "DataLoader[Any]":
    """Return a DataLoader whose items are the stream's batches as they are (no collation, no second batching).

    Worker processes are spawned unless `multiprocessing_context` says otherwise: a fork of a process with threads can
    hang.

    Raises:
        ConfigError: persistent workers are asked for.
    """
    if options.get("persistent_workers"):
        raise ConfigError(
            "persistent_workers=True: workers that stay do not know where the stream stands; leave it out"
        )
    if num_workers:
        options.setdefault("multiprocessing_context", "spawn")
    return _Loader(_Steps(stream), batch_size=None, num_workers=num_workers, **options)
