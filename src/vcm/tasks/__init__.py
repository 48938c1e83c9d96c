"""Frozen networks with a purpose."""

from vcm.tasks.base import Task
from vcm.tasks.classification import ClassificationTask
from vcm.tasks.fine_tuned import fine_tuned
from vcm.tasks.torchvision_detection import TorchvisionDetectionTask
from vcm.tasks.yolo import YOLOTask

__all__ = ["ClassificationTask", "Task", "TorchvisionDetectionTask", "YOLOTask", "fine_tuned"]
