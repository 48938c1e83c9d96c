"""Task networks that can be cut in two: what training, feature codecs and searches need."""

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
    """A frozen network with a loss, and a cut into `features` and `tail`.

    ```
    images ──► prepare ──► encode ──►(cut)──► tail ──► predictions
               └──── features ────┘
    ```

    Its parameters do not require gradients and its normalization layers stay in evaluation mode, whatever
    `train()` is called with; gradients still flow through it to the images.

    Attributes:
        cut: Name of the layer after which `features` stops.
        weights_sha256: Of its weights; part of `settings`.
    """

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
        """Bring images to the sizes that the network takes: what a codec for this task encodes.

        Args:
            images: (N, 3, H, W), or a sequence of (3, H, W) of any sizes; float32 RGB in [0, 1].
        """

    @abstractmethod
    def encode(self, prepared: Prepared) -> Features:
        """Run the network on prepared images, up to and including the layer named `cut`.

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
        """Run the rest of the network on `features` and return one prediction an image."""

    @property
    def has_heads(self) -> bool:
        """Whether `outputs` and `output_divergence` are defined."""
        return type(self).outputs is not SplitTask.outputs

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
        """Predict for each image: `tail(features(images))`, without gradients.

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
            targets: One an image; labels are indices into this task's `categories`.
        """

    def _no_heads(self) -> ArgumentError:
        return ArgumentError(
            "supervision",
            expected=f"features for {self.name}, which defines no raw outputs",
            got="heads",
            remedy="Override outputs and output_divergence of the task, or use its features.",
        )

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


def check_split_task(argument: str, task: object, purpose: str) -> SplitTask:
    """Return `task` if it is a `SplitTask`.

    Args:
        argument: What the error calls it.
        task: Any object.
        purpose: What needs it, as the error's subject.

    Raises:
        ArgumentError: If it is something else.
    """
    if not isinstance(task, SplitTask):
        raise ArgumentError(
            argument,
            expected=f"a vcm.tasks.SplitTask: {purpose} needs the network's features and gradients",
            got=type(task).__name__,
        )
    return task
