"""Networks in plain torch."""

from vcm.lazy_imports import import_compressai_lazily

import_compressai_lazily()
