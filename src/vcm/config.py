"""Schemas of conf/ as plain dataclasses."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass
class CodecPlan:
    """One curve of an evaluation.

    Attributes:
        codec: How to build the codec (`_target_` and its options, without the quality).
        qualities: Operating points, in the codec's own scale.
        preprocessor: How to build what changes images before this codec; None for the evaluation's.
        lmbda: λ of an NPPPreprocessor for each of the qualities; None for the λ of its training there.
        at_reader: Whether images are scaled to the size at which the task reads them, before all else.
        importance: Options of `vcm.encoding.reader.Importance` (alpha, block, clip, task); None for
            equal QPs.
        effort: Steps of a search of each image's pixels before BPG encodes them; 0 for none. Learned codecs
            have an effort of their own.
        search: Options of `vcm.encoding.search.ImageSearch` other than the effort (task, weight,
            feature_share, cache); None for its defaults.
    """

    codec: dict[str, Any]
    qualities: list[Any]
    preprocessor: dict[str, Any] | None = None
    lmbda: list[Any] | None = None
    at_reader: bool = False
    importance: dict[str, Any] | None = None
    effort: int = 0
    search: dict[str, Any] | None = None


@dataclass
class BDRateObjective:
    """The BD-rate that a job of a sweep over evaluations returns; lower is better.

    Attributes:
        codec: Curve whose rate it is, by name; None for the last that is not the anchor.
        anchor: Curve to compare it with; None for "bpg" where it is there, else the first.
        labels: "truth" or "pseudo"; None for the first kind that was evaluated.
        accuracy: Name of the accuracy, such as "map_50"; None for the task's main one.
    """

    codec: str | None = None
    anchor: str | None = None
    labels: str | None = None
    accuracy: str | None = None


@dataclass
class MetricObjective:
    """The logged metric that a job of a sweep over trainings returns.

    Attributes:
        metric: Its name, such as "val/loss"; the last value counts.
        direction: "minimize" or "maximize".
    """

    metric: str = "val/loss"
    direction: str = "minimize"


@dataclass
class EvaluateConfig:
    """conf/evaluate.yaml.

    Attributes:
        name: The evaluation's name.
        run_dir: Folder of its records and results.
        codecs: Curves, by name.
        task: How to build the task.
        data: How to build the datamodule; its test data set is evaluated on.
        preprocessor: How to build what changes images before every codec without one of its own; None for
            nothing.
        npp_model: Model file of the preprocessors in codec=npp_….
        labels: Evaluation targets; None for every kind that the dataset provides.
        pseudo_score: Boxes on the originals at or above this score are pseudo-labels, in [0, 1].
        examples: Number of images whose decoded versions are kept.
        bootstrap: Resamples of the images that confidence intervals are from; 0 for none.
        workers: Threads of the codecs; None for one a core.
        device: Of the task; "auto" takes CUDA where there is any.
        devices: Processes that share the images, with CUDA a GPU each; results are the same.
        objective: What a job of a sweep returns.
    """

    codecs: dict[str, CodecPlan]
    task: dict[str, Any]
    data: dict[str, Any]
    name: str = "evaluate"
    run_dir: str = "runs/evaluate"
    preprocessor: dict[str, Any] | None = None
    npp_model: str | None = None
    labels: list[str] | None = None
    pseudo_score: float = 0.3
    examples: int = 3
    bootstrap: int = 200
    workers: int | None = None
    device: str = "auto"
    devices: int = 1
    objective: BDRateObjective = field(default_factory=BDRateObjective)


@dataclass
class TrainConfig:
    """conf/train.yaml.

    Attributes:
        module: How to build the LightningModule.
        data: How to build the datamodule.
        trainer: How to build Lightning's Trainer.
        network: How to build the network; the module takes it by interpolation. None: it trains a task's.
        tasks: How to build the frozen tasks, by name; likewise.
        codec_loop: How to build the codec in the training loop; the module takes it by interpolation.
        proxy: How to build the proxy of that codec; likewise.
        optimizer: How to build the optimizer, as a `_partial_`; the module takes it by interpolation.
        scheduler: How to build the learning rate scheduler, as a `_partial_` or a `vcm.modules.LRSchedule`;
            the module takes it by interpolation. None for what the module's `schedule` says.
        callbacks: How to build callbacks in addition to vcm's own, by name.
        logger: How to build loggers, by name.
        name: The run's name.
        run_dir: Folder of its checkpoints, figures and model.
        seed: Of every random generator.
        start_from: A model file whose weights a new run starts with; None for random ones.
        objective: What a job of a sweep returns.
    """

    module: dict[str, Any]
    data: dict[str, Any]
    trainer: dict[str, Any]
    tasks: dict[str, Any]
    network: dict[str, Any] | None = None
    codec_loop: dict[str, Any] | None = None
    proxy: dict[str, Any] | None = None
    optimizer: dict[str, Any] | None = None
    scheduler: dict[str, Any] | None = None
    callbacks: dict[str, Any] | None = None
    logger: dict[str, Any] | None = None
    name: str = "train"
    run_dir: str = "runs/train"
    seed: int = 1
    start_from: str | None = None
    objective: MetricObjective = field(default_factory=MetricObjective)
