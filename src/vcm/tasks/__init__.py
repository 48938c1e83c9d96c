"""Frozen networks with a purpose."""

from vcm.tasks.base import Task
from vcm.tasks.yolo import YOLOTask

__all__ = ["Task", "YOLOTask"]
