"""Dotted names to objects.

Called at configuration and by commands, on their threads: it imports. The core reaches contribs by this alone.
"""

from __future__ import annotations

import importlib
from typing import Any


def load(path: str) -> Any:
    """The object at `package.module.name` (nested names too). Raises ImportError where there is none."""
    module_name, _, rest = path.rpartition(".")
    names = [rest]
    while module_name:
        try:
            found: Any = importlib.import_module(module_name)
        except ModuleNotFoundError as error:
            # Only the module asked for may be missing: an import that fails inside it is another error.
            if error.name is None or not (module_name == error.name or module_name.startswith(error.name + ".")):
                raise
            module_name, _, rest = module_name.rpartition(".")
            names.insert(0, rest)
            continue
        for name in names:
            try:
                found = getattr(found, name)
            except AttributeError:
                raise ImportError(f"{path!r}: {module_name} has no {'.'.join(names)!r}") from None
        return found
    raise ImportError(f"{path!r}: there is no such module")
