"""MedLoom: papers, scans and reports into sharded training data for multimodal medical models, and a model on them."""

from importlib import import_module, metadata
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from medloom.model.stream import ShardStream
    from medloom.schemas.volume import Volume

    __version__: str

__all__ = ["ShardStream", "Volume", "__version__"]

_HOMES = {"ShardStream": "medloom.model.stream", "Volume": "medloom.schemas.volume"}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return metadata.version("medloom")
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'medloom' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
