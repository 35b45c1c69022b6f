"""Hidden states on disk: written chunk by chunk, resumed after any kill, read lazily and sharded."""

from gmijax.store._export import export
from gmijax.store._manifest import POOLINGS, Record, Spec
from gmijax.store._merge import merge
from gmijax.store._store import Store, StoreError, create, open
from gmijax.store._verify import Verification, verify

__all__ = [
    "POOLINGS",
    "Record",
    "Spec",
    "Store",
    "StoreError",
    "Verification",
    "create",
    "export",
    "merge",
    "open",
    "verify",
]
