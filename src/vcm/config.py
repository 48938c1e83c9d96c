"""Schemas of the configurations in conf/."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass
class CodecPlan:
    """One curve of an evaluation.

    Attributes:
        codec: Settings of the codec (`_target_` and options without the quality).
        qualities: Operating points, on the codec's own scale.
        preprocessor: Settings of the preprocessor before this codec; None for the evaluation's default.
        lmbda: λ of an NPPPreprocessor for each quality; None for the values that it was trained with.
        at_reader: Whether images are scaled down to the task's input size before anything else.
        importance: Options of `vcm.encoding.reader.Importance` (alpha, block, clip, task); None for the
            same QP everywhere.
        effort: Steps of the pixel search before BPG; 0 for no search. Learned codecs have their own `effort`.
        search: Other options of `vcm.encoding.search.ImageSearch` (task, weight, feature_share, cache);
            None for the defaults.
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
    """BD-rate that a job of an evaluation sweep returns; lower is better.

    Attributes:
        codec: Name of the compared curve; None for the last one that is not the anchor.
        anchor: Name of the reference curve; None for "bpg" if there is one, else the first.
        labels: "truth" or "pseudo"; None for the first kind that was evaluated.
        accuracy: Name of the accuracy, such as "map_50"; None for the task's main one.
    """

    codec: str | None = None
    anchor: str | None = None
    labels: str | None = None
    accuracy: str | None = None


@dataclass
class MetricObjective:
    """Logged metric that a job of a training sweep returns.

    Attributes:
        metric: Name of the metric, such as "val/loss"; its last value is used.
        direction: "minimize" or "maximize".
    """

    metric: str = "val/loss"
    direction: str = "minimize"


@dataclass
class EvaluateConfig:
    """Schema of conf/evaluate.yaml.

    Attributes:
        name: Name of the evaluation.
        run_dir: Folder for records and results.
        codecs: Curves by name.
        task: Settings of the task.
        data: Settings of the datamodule, whose test dataset is evaluated.
        preprocessor: Settings of the default preprocessor for curves without their own; None for none.
        npp_model: Model file of the preprocessors in codec=npp_….
        labels: Evaluation targets, "truth", "pseudo" or both; None for every kind that the dataset provides.
        pseudo_score: Lowest score of a detection on the original that becomes a pseudo-label, in [0, 1].
        examples: Number of images whose decoded versions are kept for the report.
        bootstrap: Number of resamples for the confidence intervals; 0 for none.
        workers: Number of codec threads; None for one per core.
        device: Device of the task; "auto" is CUDA if available.
        devices: Number of processes that share the images, each with its own GPU if there are GPUs. The
            results are the same.
        objective: Objective of a sweep.
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
    """Schema of conf/train.yaml.

    Attributes:
        module: Settings of the LightningModule.
        data: Settings of the datamodule.
        trainer: Settings of Lightning's Trainer.
        network: Settings of the network, which the module uses by interpolation; None if a task is trained.
        tasks: Settings of the frozen tasks by name, which the module uses by interpolation.
        codec_loop: Settings of the codec in the training loop, which the module uses by interpolation.
        proxy: Settings of that codec's proxy, which the module uses by interpolation.
        optimizer: Settings of the optimizer, as a `_partial_`, which the module uses by interpolation.
        scheduler: Settings of the learning rate scheduler, as a `_partial_` or a `vcm.modules.LRSchedule`,
            which the module uses by interpolation; None for the module's `schedule`.
        callbacks: Settings of additional callbacks by name.
        logger: Settings of loggers by name.
        name: Name of the run.
        run_dir: Folder for checkpoints, metrics and the model.
        seed: Seed of all random generators.
        start_from: Model file with the initial weights of a new run; None for random weights.
        objective: Objective of a sweep.
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
