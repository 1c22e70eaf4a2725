"""Everything between a disk and a batch: sources, schemas, augmentation, loaders.

Kinds of data are files in `kinds/`; containers (folders, parquet, arrays, dataset objects) are generic.
"""

from .errors import DataError, SchemaError
from .loader import ordered_loader, training_loader
from .open import open_source
from .schema import Field, Schema, infer_schema
from .source import Source
from .split import duplicates_across, few_label_draws, split_source
from .stream import StreamSource

__all__ = [
    "DataError",
    "Field",
    "Schema",
    "SchemaError",
    "Source",
    "StreamSource",
    "duplicates_across",
    "few_label_draws",
    "infer_schema",
    "open_source",
    "ordered_loader",
    "split_source",
    "training_loader",
]
