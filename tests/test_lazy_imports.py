"""CompressAI's parts come without the rest of it, and nobody else sees a difference."""

import json

import pytest

import programs


def run(code):
    done = programs.run(["-W", "ignore", "-c", code], timeout=120, imported="torch")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


SLOW = '["torch_geometric", "scipy.stats._stats_py", "torchvision", "torch._dynamo", "lightning", "pandas"]'


def test_models_tasks_and_streams_need_none_of_the_slow_packages():
    code = f"""
import json, sys
import vcm.cli.models, vcm.codecs.learned.streams, vcm.nn.slimmable, vcm.tasks
from vcm.codecs import LearnedCodec
import torch
from vcm.weights import SLIMMABLE_YOLOV3_TINY, shipped
codec = LearnedCodec(1, model=shipped(SLIMMABLE_YOLOV3_TINY))
image = torch.zeros(3, 20, 30, dtype=torch.uint8)
assert codec.decode(codec.encode(image)).shape == image.shape
print(json.dumps([name for name in {SLOW} if name in sys.modules]))
"""
    assert run(code) == []


@pytest.mark.parametrize(
    "asks",
    [
        "import compressai; compressai.zoo",
        "import compressai; compressai.__version__",
        "from compressai import set_entropy_coder",
        "from compressai.zoo import bmshj2018_factorized",
        "import compressai.models",
    ],
)
def test_other_code_finds_the_whole_package(asks):
    code = f"""
import json
import vcm.nn
from compressai.entropy_models import EntropyBottleneck, GaussianConditional
made = GaussianConditional([1.0, 2.0]), EntropyBottleneck(2)
{asks}
import compressai
from compressai import models, zoo
import scipy.stats
import inspect
network = zoo.bmshj2018_hyperprior(1, pretrained=False)
compressai.set_entropy_coder("ans")
print(json.dumps([
    isinstance(network.entropy_bottleneck, EntropyBottleneck),
    compressai.entropy_models.EntropyBottleneck is EntropyBottleneck,
    compressai.available_entropy_coders()[0],
    round(scipy.stats.norm.ppf(0.3), 6),
    inspect.ismodule(compressai) and type(compressai).__name__,
    hasattr(compressai, "nothing"),
]))
"""
    assert run(code) == [True, True, "ans", -0.524401, "module", False]


def test_a_package_that_is_there_is_left_alone():
    code = """
import json
import compressai, scipy.stats
before = compressai, scipy.stats, compressai.get_entropy_coder
import vcm.nn
import sys
print(json.dumps([
    sys.modules["compressai"] is before[0],
    sys.modules["scipy.stats"] is before[1],
    compressai.get_entropy_coder is before[2],
]))
"""
    assert run(code) == [True, True, True]


def test_tasks_of_torchvision_are_found_by_name():
    code = """
import json
import vcm.tasks
from vcm.tasks import ClassificationTask, TorchvisionDetectionTask
from hydra.utils import get_object
print(json.dumps([
    get_object("vcm.tasks.ClassificationTask") is ClassificationTask,
    TorchvisionDetectionTask.__module__,
    hasattr(vcm.tasks, "Nothing"),
    sorted(set(vcm.tasks.__all__) - set(dir(vcm.tasks))),
]))
"""
    assert run(code) == [True, "vcm.tasks.torchvision_detection", False, []]


def test_threads_that_ask_at_once_all_find_it():
    code = """
import json
import vcm.nn
import compressai
from concurrent.futures import ThreadPoolExecutor
with ThreadPoolExecutor(8) as pool:
    found = list(pool.map(lambda _: compressai.set_entropy_coder.__name__, range(16)))
print(json.dumps(sorted(set(found))))
"""
    assert run(code) == ["set_entropy_coder"]
