"""Training of the student: features of the teacher, at a rate."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor
from torchmetrics import MeanMetric

from entropic_student.network import EntropicStudent, save_student
from vcm.data import Batch
from vcm.errors import ArgumentError, WeightsError
from vcm.losses.rate_distortion import RateDistortion, rate_distortion
from vcm.modules import NetworkModule, crops_of
from vcm.nn.models import load_model
from vcm.tasks import SplitTask
from vcm.tasks.distance import FeatureDistance
from vcm.types import Prepared
from vcm.validation import check_positive


class DistillationModule(NetworkModule):
    """Teach an `EntropicStudent` the features of a frozen detector: L = R + λ·255²·D(f̂, f).

    Args:
        network: The student.
        task: The teacher, cut where the student's features belong.
        lmbda: λ, above 0.
        guides: Deeper layers at which features are compared, and "heads"; see `FeatureDistance`.
        learning_rate: Adam learning rate.

    Raises:
        ArgumentError: If λ is not above 0, or the student's features are not those at the teacher's cut.
    """

    def __init__(
        self,
        network: EntropicStudent,
        task: SplitTask,
        *,
        lmbda: float,
        guides: tuple[str, ...] = (),
        learning_rate: float = 1e-3,
    ) -> None:
        super().__init__(network, [task], learning_rate=learning_rate, schedule="cosine")
        self.save_hyperparameters(ignore=["network", "task"])
        self.network: EntropicStudent = network
        self.lmbda = check_positive("lmbda", lmbda)
        with torch.no_grad():
            features = task.cut_feature(task.prepare(torch.zeros(1, 3, 64, 64)))
            decoded = network(task.prepare(torch.zeros(1, 3, 64, 64)).inputs)["f_hat"]
        if decoded.shape != features.shape:
            raise ArgumentError(
                "network.channels, network.stride",
                expected=f"those of {task.name} at its cut {task.cut}, which gives {tuple(features.shape)}",
                got=tuple(decoded.shape),
            )
        self.distance = FeatureDistance(task, list(guides), near_weight=1.0)
        self.mean_bpp, self.mean_distortion = MeanMetric(), MeanMetric()

    def training_step(self, batch: Batch, batch_index: int) -> Tensor:
        """Return the loss of crops; the quantiles' own loss is part of it."""
        x = crops_of(batch)
        outcome = self._outcome(Prepared(x, ((x.shape[2], x.shape[3]),) * len(x)))
        self.log_dict({"train/bpp": outcome.bpp.detach(), "train/distortion": outcome.distortion.detach()})
        loss: Tensor = outcome.loss + self.network.aux_loss()
        return loss

    def validation_step(self, batch: Batch, batch_index: int) -> None:
        """Measure whole images, with rounded symbols and estimated rates."""
        for image in batch.images:
            outcome = self._outcome(self.distance.task.prepare([image]))
            self.mean_bpp.update(outcome.bpp)
            self.mean_distortion.update(outcome.distortion)

    def on_validation_epoch_end(self) -> None:
        """Log the means, and the loss of both."""
        bpp, distortion = self.mean_bpp.compute(), self.mean_distortion.compute()
        loss = bpp + self.lmbda * 255**2 * distortion
        self.log_dict({"val/bpp": bpp, "val/distortion": distortion, "val/loss": loss}, sync_dist=True)
        self.mean_bpp.reset()
        self.mean_distortion.reset()

    def _outcome(self, prepared: Prepared) -> RateDistortion:
        """Compute rate and distortion of a task's input, (N, 3, H, W)."""
        with torch.no_grad():
            target = self.distance.task.cut_feature(prepared)
        output = self.network(prepared.inputs)
        likelihoods, num_pixels = output["likelihoods"].values(), prepared.inputs[:, 0].numel()
        return rate_distortion(
            output["f_hat"], target, likelihoods, num_pixels, self.lmbda, distortion=self.distance
        )

    def save_model(self, path: Path, **notes: str) -> None:
        """Write the student to a file that `EntropicStudentCodec` takes."""
        save_student(self.network, path, **notes)

    def start_from(self, path: str | Path) -> None:
        """Load the weights of a model file.

        Raises:
            WeightsError: If it cannot be read, or is of another architecture.
        """
        other = load_model(path)
        if not isinstance(other, EntropicStudent) or other.architecture() != self.network.architecture():
            raise WeightsError(f"{path} is of another architecture than {self.network.architecture()}.")
        self.network.load_state_dict(other.state_dict())
