"""A task: a frozen network with a purpose, which can be cut in two."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vcm.errors import ArgumentError
from vcm.tasks.importance import diagonal_directions, pixel_importance
from vcm.types import (
    Features,
    Prediction,
    Prepared,
    Settings,
    Target,
)

if TYPE_CHECKING:
    from torchmetrics import Metric


class Task(nn.Module, ABC):
    """A frozen network with a loss, predictions, a metric, and a cut into `features` and `tail`.

    ```
    images ──► prepare ──► encode ──►(cut)──► tail ──► predictions
               └──── features ────┘
    ```

    Its parameters do not require gradients and its normalization layers stay in evaluation mode, whatever
    `train()` is called with; gradients still flow through it to the images.

    Attributes:
        kind: What it predicts: `Detections` or `ClassScores`.
        name: Short name, as in configs and reports.
        categories: Names of its classes; predictions hold indices into these.
        cut: Name of the layer after which `features` stops.
        weights_sha256: Of its weights; part of `settings`.
    """

    kind: ClassVar[Literal["detection", "classification"]]
    name: str
    categories: tuple[str, ...]
    cut: str
    weights_sha256: str

    @property
    @abstractmethod
    def cuts(self) -> tuple[str, ...]:
        """Names of every place where the network can be cut, from input to output."""

    @property
    def deepest_cut(self) -> str:
        """The last cut that all outputs depend on: where features are compared for no particular cut.

        A task that does not override this has its last one there.
        """
        return self.cuts[-1]

    @abstractmethod
    def prepare(self, images: Tensor | Sequence[Tensor]) -> Prepared:
        """Bring pictures to the sizes that the network takes: what a codec for this task encodes.

        Args:
            images: (N, 3, H, W), or a sequence of (3, H, W) of any sizes; float32 RGB in [0, 1].
        """

    def reader_size(self, height: int, width: int) -> tuple[int, int]:
        """Return the size at which the network reads an image, never larger than the image.

        An image scaled to it by `resample` carries what the network reads of it; a network that rounds sizes
        may scale it again, by a pixel. A task that does not override this reads images as they are.

        Args:
            height: The image's height in pixels, from 1.
            width: Its width in pixels, from 1.

        Returns:
            (height, width) in pixels, from 1.
        """
        return height, width

    def resample(self, image: Tensor, size: tuple[int, int]) -> Tensor:
        """Scale an image by the reader's own interpolation; differentiable.

        A task that does not override this interpolates bilinearly, antialiased where it scales down.

        Args:
            image: (3, H, W), float.
            size: (height, width) in pixels, larger or smaller.

        Returns:
            (3, height, width).
        """
        return F.interpolate(image[None], size=size, mode="bilinear", align_corners=False, antialias=True)[0]

    @abstractmethod
    def encode(self, prepared: Prepared) -> Features:
        """Run the network on prepared pictures, up to and including the layer named `cut`.

        Args:
            prepared: What `prepare` gives; any inputs whose sides are multiples of the network's stride do,
                such as training crops.
        """

    def cut_feature(self, prepared: Prepared) -> Tensor:
        """The cut layer's own output, (N, C, H', W'), where the tail needs nothing else.

        Args:
            prepared: As `encode` takes it.

        Raises:
            ArgumentError: If the tail needs other tensors too.
        """
        tensors = self.encode(prepared).tensors
        if len(tensors) != 1:
            raise ArgumentError(
                "cut",
                expected="a cut after which one tensor is needed",
                got=f"{self.cut}, after which {', '.join(tensors)} are",
            )
        return next(iter(tensors.values()))

    def onward(self, features: Features, cut: str) -> Features:
        """Run the network on from its own cut, up to and including a later layer; gradients flow.

        A task that does not override this stays where it is cut.

        Args:
            features: As `tail` takes them.
            cut: One of `cuts`, this task's own or a later one.

        Returns:
            What `encode` would give if the task were cut there.

        Raises:
            ArgumentError: If there is no such layer, or it comes before the task's own cut.
        """
        if cut != self.cut:
            raise ArgumentError("cut", expected=f"{self.cut}, where {self.name} is cut", got=cut)
        return features

    def features(self, images: Tensor | Sequence[Tensor]) -> Features:
        """`encode(prepare(images))`.

        Args:
            images: As `prepare` takes them.
        """
        return self.encode(self.prepare(images))

    @abstractmethod
    def tail(self, features: Features) -> list[Prediction]:
        """Run the rest of the network on `features` and return one prediction a picture."""

    @property
    def has_heads(self) -> bool:
        """Whether `outputs` and `output_divergence` are defined."""
        return type(self).outputs is not Task.outputs

    def outputs(self, features: Features) -> dict[str, Tensor]:
        """Run the rest of the network up to its raw head outputs; gradients flow.

        Raw outputs are what predictions are made of, before thresholds and non-maximum suppression: logits
        and box parameters. A task without such heads does not override this.

        Args:
            features: As `tail` takes them.

        Returns:
            Tensors (N, …) by name, the same names for every image.

        Raises:
            ArgumentError: If this task has no heads.
        """
        raise self._no_heads()

    def output_divergence(self, found: Mapping[str, Tensor], true: Mapping[str, Tensor]) -> Tensor:
        """Compute how far raw outputs are from the originals' in each image; with a gradient.

        Args:
            found: What `outputs` returned for the decoded images or features.
            true: Likewise, for the originals.

        Returns:
            (N,) float32, 0 where the outputs are equal and positive elsewhere.

        Raises:
            ArgumentError: If this task has no heads, or names or shapes differ.
        """
        raise self._no_heads()

    def output_directions(
        self, outputs: Mapping[str, Tensor], count: int, generator: torch.Generator
    ) -> list[dict[str, Tensor]]:
        """Draw random directions g of the raw outputs with E[g gᵀ] = Hessian of `output_divergence`.

        Their gradients with respect to an image are random Gauss–Newton directions, as `importance` needs
        them. By default the Hessian is taken as diagonal, as it is where the outputs are independent
        Bernoulli variables and squared errors; a task with other divergences overrides this.

        Args:
            outputs: What `outputs` returned for one image.
            count: Number of directions.
            generator: Of the random numbers, on the CPU.

        Returns:
            Tensors by name, of the shapes of `outputs`, for each direction.
        """
        return diagonal_directions(self.output_divergence, outputs, count, generator)

    def importance(self, image: Tensor, *, directions: int = 4, seed: int = 0) -> Tensor:
        """Compute how much the task's raw outputs depend on each pixel.

        ```
        mean over directions g:  Σ_colours (∂ ⟨g, outputs(image)⟩ / ∂ pixel)²
        ```

        To second order, uncorrelated noise of variance v_i in pixel i raises `output_divergence` by
        ½ Σ_i importance_i · v_i. A task without heads takes the relative error of its features at the cut
        instead.

        Args:
            image: (3, H, W) float RGB in [0, 1]; it is scaled as `prepare` does, gradients are those in its
                own pixels.
            directions: Number of backward passes, from 1.
            seed: Of the random directions; the map is deterministic on one machine.

        Returns:
            (H, W) float32, not negative, on the image's device.

        Raises:
            ArgumentError: If an argument is out of range, or the image is not as `prepare` takes it.
            WeightsError: If gradients are NaN or infinite.
        """
        return pixel_importance(self, image, directions, seed)

    def predict(self, images: Tensor | Sequence[Tensor]) -> list[Prediction]:
        """Predict for each picture: `tail(features(images))`, without gradients.

        Args:
            images: As `features` takes them.
        """
        with torch.no_grad():
            return self.tail(self.features(images))

    @abstractmethod
    def loss(self, images: Tensor | Sequence[Tensor], targets: Sequence[Target]) -> Tensor:
        """The task's own training loss, a scalar, differentiable with respect to `images`.

        Args:
            images: As `features` takes them.
            targets: One a picture; labels are indices into this task's `categories`.
        """

    @abstractmethod
    def metric(self) -> Metric:
        """A new metric: `update(predictions, targets)`, then `compute()` gives a dict of named accuracies."""

    @abstractmethod
    def settings(self) -> Settings:
        """What makes the task what it is, as plain JSON values, the weights' SHA-256 among them."""

    def train(self, mode: bool = True) -> Task:
        """Stay frozen: a task is always in evaluation mode."""
        del mode
        return super().train(False)

    def _no_heads(self) -> ArgumentError:
        return ArgumentError(
            "supervision",
            expected=f"features for {self.name}, which defines no raw outputs",
            got="heads",
            remedy="Override outputs and output_divergence of the task, or use its features.",
        )

    def freeze(self) -> None:
        """Take the parameters out of training; constructors call this last.

        Weights are laid out with channels last, in which convolutions on a CPU take less time.
        """
        self.requires_grad_(False)
        self.train(False)
        self.to(memory_format=torch.channels_last)

    def check_cut(self, cut: str) -> str:
        """Return `cut` if this network has it.

        Raises:
            ArgumentError: If it has not; the message lists those it has.
        """
        if cut not in self.cuts:
            raise ArgumentError("cut", expected=f"one of {', '.join(self.cuts)}", got=cut)
        return cut

    def check_later_cut(self, cut: str) -> str:
        """Return `cut` if this network has it, and not before the task's own.

        Raises:
            ArgumentError: If it has not.
        """
        later = self.cuts[self.cuts.index(self.cut) :]
        if cut not in later:
            raise ArgumentError("cut", expected=f"one from {self.cut} on: {', '.join(later)}", got=cut)
        return cut
