"""LightningDataModule with whole images for evaluation and crops for training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from lightning import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from vcm.data.datasets import ImageDataset
from vcm.data.transforms import RandomCrop
from vcm.errors import ArgumentError, DatasetError
from vcm.types import Sample, Target


@dataclass(frozen=True, eq=False)
class Batch:
    """Images of one training or validation step.

    Attributes:
        images: RGB images in [0, 1], float32: (N, 3, H, W) if all have the same size, else a list of (3, H,
            W).
        targets: One per image; None for an unlabelled image.
        image_ids: One per image.
    """

    images: Tensor | list[Tensor]
    targets: list[Target | None]
    image_ids: list[str]

    def to(self, device: torch.device | str | int, *, non_blocking: bool = False) -> Batch:
        """Move the images to a device; targets stay. Lightning calls this for every module and Trainer.

        Args:
            device: See `torch.Tensor.to`.
            non_blocking: See `torch.Tensor.to`.
        """
        images = self.images
        if isinstance(images, Tensor):
            return replace(self, images=images.to(device, non_blocking=non_blocking))
        return replace(self, images=[image.to(device, non_blocking=non_blocking) for image in images])

    def pin_memory(self) -> Batch:
        """Copy the images to pinned memory; a DataLoader with `pin_memory=True` calls this."""
        images = self.images
        if isinstance(images, Tensor):
            return replace(self, images=images.pin_memory())
        return replace(self, images=[image.pin_memory() for image in images])


class ImageDataModule(LightningDataModule):
    """Datasets for training, validation and testing.

    Training images are cropped and flipped at random; validation and test images are returned whole, one per
    batch.
    """

    def __init__(
        self,
        *,
        train: ImageDataset | None = None,
        val: ImageDataset | None = None,
        test: ImageDataset | None = None,
        crop_size: int = 256,
        smallest_scale: float = 1.0,
        batch_size: int = 8,
        num_workers: int = 0,
        keep_in_memory: bool = False,
    ) -> None:
        """Set the datasets, each of which is optional.

        Args:
            train: Dataset of `train_dataloader`.
            val: Dataset of `val_dataloader`.
            test: Dataset of `test_dataloader`, which `vcm evaluate` uses.
            crop_size: Side of the square training crops in pixels, at least 8.
            smallest_scale: Smallest random factor by which training crops are scaled down, in (0, 1].
            batch_size: Number of training crops per batch.
            num_workers: Number of processes that read images; 0 reads in the main process.
            keep_in_memory: Whether to cache decoded training images, at 3 bytes per pixel; requires
                `num_workers=0`, because worker processes are restarted every epoch.

        Raises:
            ArgumentError: If a number is out of range.
        """
        super().__init__()
        for name, value, low in (
            ("crop_size", crop_size, 8),
            ("batch_size", batch_size, 1),
            ("num_workers", num_workers, 0),
        ):
            if value < low:
                raise ArgumentError(name, expected=f"a whole number of at least {low}", got=value)
        self.train_dataset, self.val_dataset, self.test_dataset = train, val, test
        if not 0 < smallest_scale <= 1:
            raise ArgumentError("smallest_scale", expected="a number in (0, 1]", got=smallest_scale)
        if keep_in_memory and num_workers > 0:
            raise ArgumentError(
                "num_workers",
                expected="0 with keep_in_memory",
                got=num_workers,
                remedy="Set keep_in_memory to false, or num_workers to 0.",
            )
        self.crop_size, self.batch_size, self.num_workers = crop_size, batch_size, num_workers
        self.smallest_scale, self.keep_in_memory = smallest_scale, keep_in_memory
        # Separate from torch's global generator, from which others draw between saving and resuming.
        self._order = torch.Generator().manual_seed(torch.initial_seed())

    def train_dataloader(self) -> DataLoader[Sample]:
        """Return a loader of shuffled batches of crops."""
        crop = RandomCrop(self.crop_size, smallest_scale=self.smallest_scale)
        crops = _Cropped(_need(self.train_dataset, "train"), crop, keep=self.keep_in_memory)
        return DataLoader(
            crops,
            batch_size=self.batch_size,
            shuffle=True,
            generator=self._order,
            drop_last=len(crops) >= self.batch_size,
            num_workers=self.num_workers,
            collate_fn=collate,
        )

    def val_dataloader(self) -> DataLoader[Sample]:
        """Return a loader of whole images in order, one per batch."""
        return self._whole(_need(self.val_dataset, "val"))

    def test_dataloader(self) -> DataLoader[Sample]:
        """Return a loader of whole images in order, one per batch."""
        return self._whole(_need(self.test_dataset, "test"))

    def state_dict(self) -> dict[str, Tensor]:
        """Return the state of the training order, which Lightning stores in checkpoints."""
        return {"order": self._order.get_state()}

    def load_state_dict(self, state_dict: dict[str, Tensor]) -> None:
        """Restore the state of the training order."""
        self._order.set_state(state_dict["order"].cpu())

    def _whole(self, dataset: ImageDataset) -> DataLoader[Sample]:
        return DataLoader(dataset, batch_size=1, num_workers=self.num_workers, collate_fn=collate)


class _Cropped(Dataset[Sample]):
    """A dataset with random crops."""

    def __init__(self, dataset: ImageDataset, crop: RandomCrop, *, keep: bool) -> None:
        self.dataset, self.crop, self.keep = dataset, crop, keep
        self._kept: dict[int, Sample] = {}

    def __getitem__(self, index: int) -> Sample:
        sample = self._kept.get(index) or self.dataset[index]
        if self.keep:
            self._kept[index] = sample
        return self.crop(sample)

    def __len__(self) -> int:
        return len(self.dataset)


def collate(samples: Sequence[Sample]) -> Batch:
    """Combine samples to a `Batch`; uint8 images become float32 in [0, 1]."""
    images = [sample.image.float() / 255 for sample in samples]
    same_size = len({image.shape for image in images}) == 1
    return Batch(
        images=torch.stack(images) if same_size else images,
        targets=[sample.target for sample in samples],
        image_ids=[sample.image_id for sample in samples],
    )


def _need(dataset: ImageDataset | None, part: str) -> ImageDataset:
    if dataset is None:
        raise DatasetError(f"This datamodule has no {part} dataset. Build it with {part}=….")
    return dataset
