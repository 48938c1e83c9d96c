"""Image compression for machines: learned codecs, preprocessors, and their rate against task accuracy.

Importing this imports nothing else; names are loaded when they are first used.
"""

from importlib.metadata import version
from typing import TYPE_CHECKING

from vcm.lazy_imports import lazy_names

if TYPE_CHECKING:
    from vcm import codecs, data, encoding, losses, metrics, modules, nn, tasks
    from vcm.cli.tasks import load_task
    from vcm.evaluation.python import evaluate
    from vcm.nn.models import load_model

__version__ = version("vcm")
__all__ = [
    "__version__",
    "codecs",
    "data",
    "encoding",
    "evaluate",
    "load_model",
    "load_task",
    "losses",
    "metrics",
    "modules",
    "nn",
    "tasks",
]
_PACKAGES = ("codecs", "data", "encoding", "evaluation", "losses", "metrics", "modules", "nn", "tasks")
__getattr__, __dir__ = lazy_names(
    __name__,
    {
        **{name: f"vcm.{name}" for name in _PACKAGES},
        "evaluate": "vcm.evaluation.python",
        "load_model": "vcm.nn.models",
        "load_task": "vcm.cli.tasks",
    },
)
