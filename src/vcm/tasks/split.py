"""Task networks with a cut, for training, feature codecs and searches."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from vcm.errors import ArgumentError
from vcm.tasks.base import Task
from vcm.tasks.importance import diagonal_directions, pixel_importance
from vcm.types import Features, Prediction, Prepared, Target


class SplitTask(Task):
    """A frozen network with a training loss, and a cut that divides it into `features` and `tail`.

    ```
    images ──► prepare ──► encode ──►(cut)──► tail ──► predictions
               └──── features ────┘
    ```

    Parameters do not require gradients and normalization layers stay in evaluation mode, whatever `train()`
    is called with. Gradients still flow through the network to the images.

    Attributes:
        cut: Name of the layer after which `features` stops.
        weights_sha256: SHA-256 of the weights; part of `settings`.
    """

    cut: str
    weights_sha256: str

    @property
    @abstractmethod
    def cuts(self) -> tuple[str, ...]:
        """Names of all layers where the network can be cut, from input to output."""

    @property
    def deepest_cut(self) -> str:
        """The last cut that all outputs depend on, where features are compared independently of `cut`.

        The default is the last cut.
        """
        return self.cuts[-1]

    @abstractmethod
    def prepare(self, images: Tensor | Sequence[Tensor]) -> Prepared:
        """Convert images to the network's input, which is what a codec for this task encodes.

        Args:
            images: RGB images in [0, 1], float32: (N, 3, H, W), or a sequence of (3, H, W) of any sizes.
        """

    @abstractmethod
    def encode(self, prepared: Prepared) -> Features:
        """Run the network on prepared images, up to and including the layer `cut`.

        Args:
            prepared: Output of `prepare`, or other inputs with sides that are multiples of the network's
                stride, such as training crops.
        """

    def cut_feature(self, prepared: Prepared) -> Tensor:
        """Return the cut layer's output, (N, C, H', W'), if the tail needs nothing else.

        Args:
            prepared: See `encode`.

        Raises:
            ArgumentError: If the tail needs several tensors.
        """
        tensors = self.encode(prepared).tensors
        if len(tensors) != 1:
            raise ArgumentError(
                "cut",
                expected="a cut after which a single tensor is needed",
                got=f"{self.cut}, after which {', '.join(tensors)} are needed",
            )
        return next(iter(tensors.values()))

    def onward(self, features: Features, cut: str) -> Features:
        """Run the network from its own cut to a later layer; gradients flow.

        The default supports only the task's own cut.

        Args:
            features: See `tail`.
            cut: The task's own cut or a later one.

        Returns:
            Output of `encode` if the task were cut there.

        Raises:
            ArgumentError: If there is no such layer, or it is before the task's own cut.
        """
        if cut != self.cut:
            raise ArgumentError("cut", expected=f"{self.cut}, the cut of {self.name}", got=cut)
        return features

    def features(self, images: Tensor | Sequence[Tensor]) -> Features:
        """Return `encode(prepare(images))`.

        Args:
            images: See `prepare`.
        """
        return self.encode(self.prepare(images))

    @abstractmethod
    def tail(self, features: Features) -> list[Prediction]:
        """Run the rest of the network and return one prediction per image."""

    @property
    def has_heads(self) -> bool:
        """Whether `outputs` and `output_divergence` are defined."""
        return type(self).outputs is not SplitTask.outputs

    def outputs(self, features: Features) -> dict[str, Tensor]:
        """Run the rest of the network to its raw outputs; gradients flow.

        Raw outputs are logits and box parameters before thresholds and non-maximum suppression. A task
        without them does not override this method.

        Args:
            features: See `tail`.

        Returns:
            Tensors (N, …) by name, with the same names for every image.

        Raises:
            ArgumentError: If this task has no raw outputs.
        """
        raise self._no_heads()

    def output_divergence(self, found: Mapping[str, Tensor], true: Mapping[str, Tensor]) -> Tensor:
        """Compute the divergence of raw outputs from the originals', per image; differentiable.

        Args:
            found: Raw outputs for the decoded images or features, by name, (N, …) each.
            true: Raw outputs for the originals, of the same names and shapes.

        Returns:
            (N,) float32; 0 if the outputs are equal, positive otherwise.

        Raises:
            ArgumentError: If this task has no raw outputs, or names or shapes differ.
        """
        raise self._no_heads()

    def output_directions(
        self, outputs: Mapping[str, Tensor], count: int, generator: torch.Generator
    ) -> list[dict[str, Tensor]]:
        """Draw random directions g of the raw outputs with E[g gᵀ] = Hessian of `output_divergence`.

        Their gradients with respect to an image are random Gauss–Newton directions, which `importance` needs.
        The default assumes a diagonal Hessian, which is exact for independent Bernoulli variables and squared
        errors; tasks with other divergences override this method.

        Args:
            outputs: Raw outputs for one image by name, (1, …) each.
            count: Number of directions.
            generator: Random number generator on the CPU.

        Returns:
            One mapping per direction, with the names and shapes of `outputs`.
        """
        return diagonal_directions(self.output_divergence, outputs, count, generator)

    def importance(self, image: Tensor, *, directions: int = 4, seed: int = 0) -> Tensor:
        """Compute how much the task's raw outputs depend on each pixel.

        ```
        mean over directions g:  Σ_colours (∂ ⟨g, outputs(image)⟩ / ∂ pixel)²
        ```

        To second order, uncorrelated noise of variance v_i in pixel i raises `output_divergence` by
        ½ Σ_i importance_i · v_i. For a task without raw outputs, the relative error of the features at the
        cut is used instead.

        Args:
            image: RGB image (3, H, W) in [0, 1], float. It is scaled by `prepare`; the gradients are those of
                its own pixels.
            directions: Number of backward passes, at least 1.
            seed: Seed of the random directions; the map is deterministic on one machine.

        Returns:
            Nonnegative map (H, W), float32, on the image's device.

        Raises:
            ArgumentError: If an argument is out of range, or `prepare` does not accept the image.
            WeightsError: If gradients are NaN or infinite.
        """
        return pixel_importance(self, image, directions, seed)

    def predict(self, images: Tensor | Sequence[Tensor]) -> list[Prediction]:
        """Return the predictions `tail(features(images))`, without gradients.

        Args:
            images: See `prepare`.
        """
        with torch.no_grad():
            return self.tail(self.features(images))

    @abstractmethod
    def loss(self, images: Tensor | Sequence[Tensor], targets: Sequence[Target]) -> Tensor:
        """Compute the task's own training loss, a scalar that is differentiable with respect to `images`.

        Args:
            images: See `prepare`.
            targets: One per image; labels are indices into this task's `categories`.
        """

    def _no_heads(self) -> ArgumentError:
        return ArgumentError(
            "supervision",
            expected=f"features, because {self.name} defines no raw outputs",
            got="heads",
            remedy="Define outputs and output_divergence in the task, or use supervision=features.",
        )

    def check_cut(self, cut: str) -> str:
        """Return `cut` if it is a cut of this network.

        Raises:
            ArgumentError: If it is not; the message lists the valid cuts.
        """
        if cut not in self.cuts:
            raise ArgumentError("cut", expected=f"one of {', '.join(self.cuts)}", got=cut)
        return cut

    def check_later_cut(self, cut: str) -> str:
        """Return `cut` if it is the task's own cut or a later one.

        Raises:
            ArgumentError: If it is not.
        """
        later = self.cuts[self.cuts.index(self.cut) :]
        if cut not in later:
            raise ArgumentError("cut", expected=f"{self.cut} or a later cut: {', '.join(later)}", got=cut)
        return cut


def check_split_task(argument: str, task: object, purpose: str) -> SplitTask:
    """Return `task` if it is a `SplitTask`.

    Args:
        argument: Name of the argument in the error message.
        task: Any object.
        purpose: Purpose of the task, as the subject of the error message.

    Raises:
        ArgumentError: If it is not a `SplitTask`.
    """
    if not isinstance(task, SplitTask):
        raise ArgumentError(
            argument,
            expected=f"a vcm.tasks.SplitTask, because {purpose} needs the network's features and gradients",
            got=type(task).__name__,
        )
    return task
