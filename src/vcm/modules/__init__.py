"""LightningModules of both methods."""

from vcm.modules.base import NetworkModule, crops_of
from vcm.modules.codec_loop import CodecLoop
from vcm.modules.importance import ImportanceModule
from vcm.modules.preprocessor import NPPModule
from vcm.modules.proxy import ProxyCodecModule, ProxyImitationModule
from vcm.modules.schedules import LRSchedule
from vcm.modules.slimmable import SlimmableModule
from vcm.modules.task import TaskModule

__all__ = [
    "CodecLoop",
    "ImportanceModule",
    "LRSchedule",
    "NPPModule",
    "NetworkModule",
    "ProxyCodecModule",
    "ProxyImitationModule",
    "SlimmableModule",
    "TaskModule",
    "crops_of",
]
