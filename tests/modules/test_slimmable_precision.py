"""Mixed precision: the network may compute in half precision, the frozen tasks that judge it do not."""

import pytest
import torch
import torch.nn.functional as F
from lightning import Trainer
from mean_task import MeanTask

from vcm.modules import SlimmableModule
from vcm.nn.slimmable import FeatureMap, SlimmableHyperprior
from vcm.types import Features

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*does not have many workers",
    "ignore:.*LeafSpec",
    "ignore:.*log_every_n_steps",
)


class ConvolvingTask(MeanTask):
    """Like MeanTask, but by operations that autocast would run in half precision; notes what they give."""

    def __init__(self):
        super().__init__()
        self.seen = []
        self.dtypes = set()

    def encode(self, prepared):
        weight = torch.eye(3)[:, :, None, None].expand(3, 3, 8, 8) / 64
        feature = self.gain * F.conv2d(prepared.inputs, weight, stride=8)
        self.dtypes.add(feature.dtype)
        self.seen.append((prepared.inputs.detach(), feature.detach()))
        return Features({"pool": feature}, prepared.image_sizes)

    def tail(self, features):
        cells = features.tensors["pool"]
        self.dtypes.add((cells @ torch.eye(cells.shape[-1])).dtype)
        return super().tail(features)


@pytest.mark.parametrize("training", [True, False])
def test_frozen_tasks_compute_in_float32(training, image_data, tmp_path):
    torch.manual_seed(0)
    task = ConvolvingTask()
    network = SlimmableHyperprior(
        {"detection": 6, "reconstruction": 10}, features={"detection": FeatureMap(3, 8)}
    )
    latents = set()
    network.g_a.register_forward_hook(lambda module, inputs, output: latents.add(output.dtype))
    module = SlimmableModule(network, {"detection": task}, {"detection": 0.001, "reconstruction": 0.01})
    run = Trainer(
        default_root_dir=tmp_path,
        accelerator="cpu",
        precision="bf16-mixed",
        max_epochs=1,
        limit_val_batches=0 if training else 1.0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    if training:
        run.fit(module, image_data())
        assert latents == {torch.bfloat16}
    else:
        run.validate(module, image_data(), verbose=False)
    assert task.dtypes == {torch.float32}
    for inputs, feature in task.seen:
        torch.testing.assert_close(feature, 2 * F.avg_pool2d(inputs, 8))
