"""Carried: an object on its way to another process, with the recipe file that its class may stand in."""

import pickle
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from medloom.schemas.keys import sha256_hex, slug

FILE_MODULE = "medloom_recipe_"  # how the names of modules begin that are made of recipe files


@dataclass(frozen=True)
class Carried:
    """A pickled object and the recipe files, as (path, text), that must be loaded before it can be opened.

    The text travels, not the path: a worker on another machine, and the guarded child, do not see the file.
    """

    data: bytes
    files: tuple[tuple[str, str], ...] = ()

    def open(self) -> Any:
        """Return the object."""
        for path, text in self.files:
            module_of_text(path, text)
        return pickle.loads(self.data)


def carry(value: Any) -> Carried:
    """Return `value` ready to be sent; recipe files that this process has loaded go with it."""
    modules = [module for name, module in sorted(sys.modules.items()) if name.startswith(FILE_MODULE)]
    data = pickle.dumps(value)
    used = [m for m in modules if m.__name__.encode() in data]
    return Carried(data, tuple((str(m.__file__), m.__dict__["__text__"]) for m in used))


def call(carried: Carried) -> Any:
    """Return `function(*args)` of a carried (function, args); importable by name, for the guarded child."""
    function, args = carried.open()
    return function(*args)


def module_of_text(path: str, text: str) -> ModuleType:
    """Return the module that a recipe file makes; the same text is loaded once, so that its classes stay the same."""
    name = f"{FILE_MODULE}{slug(Path(path).stem)}_{sha256_hex(f'{path}|{text}')[:12]}"
    if name not in sys.modules:
        module = ModuleType(name)
        module.__dict__.update({"__file__": path, "__text__": text})
        sys.modules[name] = module
        try:
            exec(compile(text, path, "exec"), module.__dict__)
        except BaseException:
            del sys.modules[name]
            raise
    return sys.modules[name]
