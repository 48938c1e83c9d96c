"""Evaluation in Python, without a configuration."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

from vcm.codecs import Codec, CodecPool, FeatureCodec
from vcm.data import ImageDataset, ImageFolderDataset
from vcm.errors import ArgumentError
from vcm.evaluation.evaluate import Evaluation
from vcm.evaluation.features import FeaturePipeline
from vcm.evaluation.labels import LabelKind
from vcm.evaluation.pipelines import ImagePipeline, Pipeline
from vcm.evaluation.recording import Progress
from vcm.evaluation.results import Results
from vcm.tasks import Task


def evaluate(
    codecs: Mapping[str, Sequence[Codec | FeatureCodec | Pipeline]],
    task: Task,
    data: ImageDataset | str | Path,
    *,
    folder: str | Path | None = None,
    labels: Sequence[LabelKind] | None = None,
    pseudo_score: float = 0.3,
    bootstrap: int = 200,
    workers: int = 0,
    progress: Progress | None = None,
) -> Results:
    """Measure rate, distortion and task accuracy of codecs on a dataset.

    ```python
    task = vcm.load_task("yolov3_tiny")
    bpg = [vcm.codecs.BPGCodec(qp) for qp in (47, 42, 37, 29)]
    results = vcm.evaluate({"bpg": bpg}, task, "photos/")
    print(results.curve("bpg"))  # [(bpp, mAP), …]
    ```

    Args:
        codecs: Operating points of each curve, by curve name. A codec becomes a plain pipeline; pass a
            `Pipeline` for a pipeline with further steps, such as a preprocessor.
        task: Task network that reads the decoded images.
        data: A dataset, or a folder of images without labels.
        folder: Folder for records and results, so that a repeated call measures only what is new, and `vcm
            report` can plot them. None keeps nothing.
        labels: Evaluation targets, "truth", "pseudo" or both; None for every kind that the dataset provides.
        pseudo_score: Lowest score of a detection on the original that becomes a pseudo-label, in [0, 1].
        bootstrap: Number of resamples of the images for confidence intervals; 0 for none.
        workers: Number of codec threads; 0 for one per core.
        progress: Progress callback; receives the stage, the images done and the total.

    Returns:
        Results with one point per operating point and kind of labels.

    Raises:
        ArgumentError: If there are no curves or operating points, or an argument is out of range.
        EvaluationError: If no image could be evaluated, the folder is not writable, or requested labels are
            missing.
    """
    if not codecs:
        raise ArgumentError("codecs", expected="at least one curve", got=dict(codecs))
    systems = [_system(name, codec, task) for name, points in codecs.items() for codec in points]
    dataset = data if isinstance(data, ImageDataset) else ImageFolderDataset(data)
    with ExitStack() as stack:
        if folder is None:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="vcm-"))
        evaluation = Evaluation(
            Path(folder).name,
            task,
            dataset,
            systems,
            folder=folder,
            pool=stack.enter_context(CodecPool(workers=workers or (os.cpu_count() or 1))),
            labels=labels,
            pseudo_score=pseudo_score,
            bootstrap=bootstrap,
        )
        return evaluation.run(progress)


def _system(name: str, codec: object, task: Task) -> Pipeline:
    if isinstance(codec, Pipeline):
        return codec
    if isinstance(codec, FeatureCodec):
        return FeaturePipeline(name, codec, task)
    if not isinstance(codec, Codec):
        expected = "a list of vcm.codecs.Codec, vcm.codecs.FeatureCodec or Pipeline"
        raise ArgumentError(f"codecs.{name}", expected=expected, got=codec)
    return ImagePipeline(name, codec, task)
