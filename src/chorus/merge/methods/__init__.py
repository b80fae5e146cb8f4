"""The merge methods, one file each. Importing this package registers every file in it."""

import importlib
import pkgutil

# found, not listed, so that a new method is one file and no edit; what several share begins with "_"
for _module in sorted(m.name for m in pkgutil.iter_modules(__path__)):
    if not _module.startswith("_"):
        importlib.import_module(f"{__name__}.{_module}")
