"""Frozen task networks (detection, classification). torchvision's are imported on first use."""

from typing import TYPE_CHECKING

from vcm.lazy_imports import lazy_names
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
__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "ClassificationTask": "vcm.tasks.classification",
        "TorchvisionDetectionTask": "vcm.tasks.torchvision_detection",
    },
)
