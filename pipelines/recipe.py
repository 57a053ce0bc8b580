"""Recipe: all that decides a build's facts, written as a Python function with typed keyword parameters."""

import importlib
import inspect
import math
import os
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any, get_args, get_type_hints

import pydantic

from medloom.pipelines import recipes as bundled
from medloom.pipelines.carried import module_of_text
from medloom.pipelines.sources.cases import Cases
from medloom.pipelines.sources.labelled import Labelled
from medloom.pipelines.sources.papers import Papers
from medloom.pipelines.sources.scans import Scans
from medloom.pipelines.unit import Stage, Task
from medloom.schemas.b2nd import DEFAULT_CODEC, Codec
from medloom.schemas.errors import ConfigError, MedloomError
from medloom.schemas.keys import fingerprint

Source = Papers | Scans | Cases | Labelled
Location = Annotated[str, "location"]  # type of a parameter that says where, not what: it decides no byte


@dataclass(frozen=True)
class Recipe:
    """All that decides a build's facts.

    Attributes:
        name: of the recipe.
        sources: where units come from.
        stages: what is done to each medium between reading and storing.
        tasks: the kinds of example that are made.
        llm: the language model that phrases questions: "embedded", a URL, or "" for none.
        salt, shares: decide the split of a group; builds that belong together share them.
        shard_bytes: source bytes after which a shard is full.
        codec: that volumes are stored with (`medloom.schemas.b2nd.encode_volume`).
        budgets: largest accepted share of refused units by source name or reason; above it the exit status is 1.
    """

    name: str
    sources: tuple[Source, ...]
    stages: tuple[Stage, ...]
    tasks: tuple[Task, ...]
    llm: str = ""
    salt: str = "medloom"
    shares: dict[str, float] = field(default_factory=lambda: {"train": 0.9, "validation": 0.05, "test": 0.05})
    shard_bytes: int = 1 << 30
    budgets: dict[str, float] = field(default_factory=dict)
    codec: Codec = DEFAULT_CODEC

    def __post_init__(self) -> None:
        if abs(sum(self.shares.values()) - 1) > 1e-9:
            raise ConfigError(f"recipe {self.name}: the shares of its splits sum to {sum(self.shares.values())}, not 1")
        if self.codec not in get_args(Codec):
            raise ConfigError(f"recipe {self.name}: codec {self.codec!r} is none of {', '.join(get_args(Codec))}")
        names = [s.name for s in self.sources]
        if len(set(names)) != len(names):
            raise ConfigError(f"recipe {self.name}: two of its sources are called the same: {', '.join(names)}")

    def source(self, name: str) -> Source:
        """The source of that name."""
        return next(s for s in self.sources if s.name == name)

    def media_fingerprint(self) -> str:
        """What decides the bytes of media: sources without their locations, stages, codec, and libraries that write."""
        other = [] if self.codec == DEFAULT_CODEC else [self.codec]  # builds older than the choice stay finished
        return fingerprint("media", self.sources, self.stages, _writers(), *other)

    def task_fingerprint(self, task: Task, model_digest: str) -> str:
        """What decides the rows of a task: its kind, its fields, its version and, if it asks, the model."""
        return fingerprint("task", task.task, task.version, task, model_digest if task.asks else "")

    def split_fingerprint(self) -> str:
        """What decides groups' splits and the cut into shards."""
        return fingerprint("split", self.salt, self.shares, self.shard_bytes)


def _writers() -> dict[str, str]:
    """Versions of the libraries whose output is stored."""
    import blosc2
    import PIL

    return {"blosc2": blosc2.__version__, "blosc2-c": blosc2.blosclib_version, "pillow": PIL.__version__}


@dataclass(frozen=True)
class LoadedRecipe:
    """A recipe with the name and the settings that made it, so that a later step makes the same one."""

    recipe: Recipe
    where: str
    settings: dict[str, str]
    parameters: dict[str, Any]

    @property
    def facts(self) -> dict[str, Any]:
        """The parameters that are no locations: what a manifest may tell."""
        hints = get_type_hints(_module(self.where).recipe, include_extras=True)
        return {n: v for n, v in self.parameters.items() if hints[n] is not Location}


def load_recipe(where: str, settings: dict[str, str]) -> LoadedRecipe:
    """Return the recipe of a bundled name or of a path to a .py file, its parameters filled from `settings`.

    Raises:
        ConfigError: there is no such recipe or parameter, or a value does not fit its type.
    """
    if where.endswith(".py"):
        where = os.path.abspath(where)
    function: Callable[..., Recipe] = _module(where).recipe
    hints = get_type_hints(function, include_extras=True)
    settings = {n: _absolute(v) if hints.get(n) is Location else v for n, v in settings.items()}
    parameters = fill(function, settings, where=where)
    loaded = LoadedRecipe(function(**parameters), where, settings, parameters)
    roots = {source.root for source in loaded.recipe.sources}
    told = sorted(name for name, value in loaded.facts.items() if isinstance(value, str) and value in roots)
    if told:
        raise ConfigError(
            f"parameter {told[0]} of recipe {where} is a source's folder, whose name may identify somebody and would "
            "stand in manifests; annotate it as Location (medloom.pipelines.recipe)"
        )
    return loaded


def _absolute(location: str) -> str:
    """Return a path of this machine from the root, so that a later step may run in another folder."""
    return os.path.abspath(location) if os.path.exists(location) else location


def fill(function: Callable[..., Any], settings: dict[str, str], *, where: str, what: str = "recipe") -> dict[str, Any]:
    """Return the keyword arguments of a recipe function, or of what else --set fills, from text, by its annotations."""
    signature, hints = inspect.signature(function).parameters, get_type_hints(function)
    unknown = sorted(set(settings) - set(signature))
    if unknown:
        raise ConfigError(
            f"{what} {where} has no parameter {', '.join(map(repr, unknown))}; it knows "
            + ", ".join(f"{n} ({_shown(hints[n])})" for n in signature)
        )
    missing = [n for n, p in signature.items() if p.default is inspect.Parameter.empty and n not in settings]
    if missing:
        raise ConfigError(f"{what} {where} needs " + " ".join(f"--set {n}=…" for n in missing))
    filled = {n: p.default for n, p in signature.items() if p.default is not inspect.Parameter.empty}
    for name, text in settings.items():
        filled[name] = _value(text, hints[name], f"{what} {where}: --set {name}={text}")
    return filled


def _value(text: str, kind: Any, what: str) -> Any:
    value: Any = text.split(",") if _shown(kind).startswith("tuple") else text
    try:
        found = pydantic.TypeAdapter(kind).validate_python(value)
    except pydantic.ValidationError as fault:
        raise ConfigError(f"{what} is not {_shown(kind)}: {fault.errors()[0]['msg'].lower()}") from fault
    if isinstance(found, float) and not math.isfinite(found):
        raise ConfigError(f"{what} is not a finite number")
    return found


def _shown(kind: Any) -> str:
    return kind.__name__ if isinstance(kind, type) and not hasattr(kind, "__args__") else str(kind)


def recipe_names() -> list[str]:
    """Names of the bundled recipes: the modules of `pipelines/recipes` that hold a function `recipe`."""
    found = []
    for entry in pkgutil.iter_modules(bundled.__path__):
        module = importlib.import_module(f"{bundled.__name__}.{entry.name}")
        if hasattr(module, "recipe"):
            found.append(entry.name)
    return sorted(found)


def describe(name: str) -> tuple[str, dict[str, str]]:
    """Return the first line of a recipe's docstring and its parameters as "type = default"."""
    function = _module(name).recipe
    return (inspect.getdoc(function) or "").partition("\n")[0], parameters_of(function)


def parameters_of(function: Callable[..., Any]) -> dict[str, str]:
    """Return the parameters that --set can fill, each as "type = default"."""
    hints = get_type_hints(function)
    return {
        n: _shown(hints[n]) + ("" if p.default is inspect.Parameter.empty else f" = {p.default!r}")
        for n, p in inspect.signature(function).parameters.items()
    }


def _module(where: str) -> ModuleType:
    if where.endswith(".py"):
        path = Path(where)
        if not path.is_file():
            raise ConfigError(f"there is no recipe at {where}: no such file")
        try:
            module = module_of_text(str(path), path.read_text(encoding="utf-8"))
        except MedloomError:
            raise
        except Exception as fault:
            raise ConfigError(f"cannot load the recipe {where}: {type(fault).__name__}: {fault}") from fault
    else:
        names = [entry.name for entry in pkgutil.iter_modules(bundled.__path__)]
        if where not in names:
            known = ", ".join(recipe_names())
            raise ConfigError(f"there is no recipe {where!r}; known are {known}, or give the path of a .py file")
        module = importlib.import_module(f"{bundled.__name__}.{where}")
    if not callable(getattr(module, "recipe", None)):
        raise ConfigError(f"{where} is no recipe: it has no function recipe(*, …) -> Recipe")
    return module
