"""Encoder side: what happens to an image before a codec, for a known task.

Importing this imports nothing else; names are loaded when they are first used.
"""

from typing import TYPE_CHECKING

from vcm.lazy_imports import lazy_names

if TYPE_CHECKING:
    from vcm.encoding.encoder import ImageEncoder, Preprocessor
    from vcm.encoding.preprocessing import NPPPreprocessor
    from vcm.encoding.reader import Importance, scale_to_reader
    from vcm.encoding.search import ImageSearch

__all__ = ["ImageEncoder", "ImageSearch", "Importance", "NPPPreprocessor", "Preprocessor", "scale_to_reader"]
__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "ImageEncoder": "vcm.encoding.encoder",
        "ImageSearch": "vcm.encoding.search",
        "Importance": "vcm.encoding.reader",
        "NPPPreprocessor": "vcm.encoding.preprocessing",
        "Preprocessor": "vcm.encoding.encoder",
        "scale_to_reader": "vcm.encoding.reader",
    },
)
