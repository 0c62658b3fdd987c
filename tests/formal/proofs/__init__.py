"""The proofs, a file per subject: importing this package enters them all in `kit.proof.PROOFS`."""

import importlib
import pkgutil

__all__: list[str] = []

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")
