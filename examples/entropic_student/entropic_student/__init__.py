"""Entropic Student (Matsubara et al., WACV 2022): supervised compression of a detector's features."""

from entropic_student.codec import EntropicStudentCodec
from entropic_student.module import DistillationModule
from entropic_student.network import EntropicStudent

__all__ = ["DistillationModule", "EntropicStudent", "EntropicStudentCodec"]
