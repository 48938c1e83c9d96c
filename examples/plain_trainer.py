"""Train vcm's slimmable codec in your own Lightning Trainer, with your own data.

vcm fetch yolov3-tiny
python examples/plain_trainer.py FOLDER_OF_IMAGES
"""

import sys
from pathlib import Path

from lightning import Trainer

import vcm
from vcm.nn.slimmable import FeatureMap, SlimmableHyperprior


def main(folder: str, max_steps: int = 40, target: str = "model.safetensors") -> None:
    data = vcm.data.ImageDataModule(
        train=vcm.data.ImageFolderDataset(folder, part="train"),
        val=vcm.data.ImageFolderDataset(folder, part="val"),
        crop_size=64,
        batch_size=2,
    )
    detector = vcm.load_task("yolov3_tiny", cut="layer1")  # 16 channels at stride 2
    network = SlimmableHyperprior(
        widths={"detection": 32, "reconstruction": 48},
        features={"detection": FeatureMap(channels=16, stride=2, synthesis=True)},
    )
    module = vcm.modules.SlimmableModule(
        network,
        tasks={"detection": detector},
        lmbda={"detection": 3e-5, "reconstruction": 0.005},
        guides={"detection": ["layer13", "heads"]},
    )
    trainer = Trainer(max_steps=max_steps, accelerator="cpu", logger=False, enable_checkpointing=False)
    trainer.fit(module, data)
    module.save_model(Path(target))
    codec = vcm.codecs.LearnedCodec(model=target)
    print(len(codec.encode(data.val_dataset[0].image)), "bytes for people")


if __name__ == "__main__":
    main(*sys.argv[1:])
