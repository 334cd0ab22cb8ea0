"""All access to array libraries.

Every other module gets a namespace `xp` from here and works on arrays through the functions
of the Python array API standard (https://data-apis.org/array-api/2024.12/).
"""

from seqcore.arrays.building import contiguous, joined, nan_unless, one_hot, picked, unstacked
from seqcore.arrays.history import leaf_like, without_history
from seqcore.arrays.namespaces import (
    import_library,
    is_array,
    is_bool,
    is_floating,
    is_integer,
    is_readable,
    is_single_or_double,
    is_traced,
    library,
    namespace,
)
from seqcore.arrays.placing import (
    bounds,
    default_integers,
    device,
    integers_like,
    is_another,
    like,
    to_host,
)
from seqcore.arrays.static import Static, Witness
from seqcore.arrays.types import Array, Namespace, Params, Series, Shape, Shapes
from seqcore.arrays.usable import Refusal, halved, judged_by_kind, refusal

__all__ = [
    "Array",
    "Namespace",
    "Params",
    "Refusal",
    "Series",
    "Shape",
    "Shapes",
    "Static",
    "Witness",
    "bounds",
    "contiguous",
    "default_integers",
    "device",
    "halved",
    "import_library",
    "integers_like",
    "is_another",
    "is_array",
    "is_bool",
    "is_floating",
    "is_integer",
    "is_readable",
    "is_single_or_double",
    "is_traced",
    "joined",
    "judged_by_kind",
    "leaf_like",
    "library",
    "like",
    "namespace",
    "nan_unless",
    "one_hot",
    "picked",
    "refusal",
    "to_host",
    "unstacked",
    "without_history",
]
