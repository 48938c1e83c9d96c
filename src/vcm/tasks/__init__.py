"""Frozen networks with a purpose. Those of torchvision are imported when they are first asked for."""

from importlib import import_module
from typing import TYPE_CHECKING

from vcm.tasks.base import Task
from vcm.tasks.fine_tuned import fine_tuned
from vcm.tasks.split import SplitTask, check_split_task
from vcm.tasks.yolo import YOLOTask

if TYPE_CHECKING:
    from vcm.tasks.classification import ClassificationTask
    from vcm.tasks.torchvision_detection import TorchvisionDetectionTask

__all__ = [
    "ClassificationTask",
    "SplitTask",
    "Task",
    "TorchvisionDetectionTask",
    "YOLOTask",
    "check_split_task",
    "fine_tuned",
]

_LATER = {
    "ClassificationTask": "vcm.tasks.classification",
    "TorchvisionDetectionTask": "vcm.tasks.torchvision_detection",
}


def __getattr__(name: str) -> object:
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_LATER[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
