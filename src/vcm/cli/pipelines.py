"""Build the codecs, preprocessors and pipelines of `vcm evaluate`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hydra.utils import instantiate

from vcm.cli.errors import user_message
from vcm.codecs import Codec, FeatureCodec
from vcm.config import CodecPlan
from vcm.encoding.encoder import Preprocessor
from vcm.encoding.preprocessing import NPPPreprocessor
from vcm.encoding.reader import Importance
from vcm.encoding.search import ImageSearch
from vcm.errors import ArgumentError, EvaluationError, MissingToolError
from vcm.evaluation.features import FeaturePipeline
from vcm.evaluation.pipelines import ImagePipeline, Pipeline
from vcm.tasks import Task

NPP_TARGET = f"{NPPPreprocessor.__module__}.{NPPPreprocessor.__qualname__}"


def build(
    name: str, plan: Mapping[str, Any], kind: type | tuple[type, ...] = object, **settings: object
) -> Any:  # noqa: ANN401  a `kind`
    """Instantiate one part of the configuration.

    Args:
        name: Name of the part in error messages.
        plan: Settings with a `_target_`.
        kind: Required type or types of the object.
        settings: Additional arguments of the target.

    Raises:
        ArgumentError: If the object is not of the required type.
    """
    built = instantiate(plan, **settings)
    if not isinstance(built, kind):
        first = kind[0] if isinstance(kind, tuple) else kind
        package = ".".join(first.__module__.split(".")[:2])
        raise ArgumentError(
            name,
            expected=f"settings with a _target_ that creates a {package}.{first.__name__}",
            got=f"_target_={plan.get('_target_')}",
        )
    return built


def build_pipelines(
    name: str,
    plan: CodecPlan,
    codecs: Sequence[Codec | FeatureCodec],
    preprocessors: Sequence[Preprocessor | None],
    task: Task,
) -> list[Pipeline]:
    """Build one system per quality of a curve.

    Args:
        name: Name of the curve.
        plan: Settings of the curve.
        codecs: One codec per quality, from `build_codecs`.
        preprocessors: One per quality, from `build_preprocessors`.
        task: Task network that reads the decoded images.

    Raises:
        ArgumentError: If settings of the curve cannot be combined.
        EvaluationError: If the importance, the search or a system cannot be built.
    """
    if isinstance(codecs[0], FeatureCodec):
        for option, unused in (("at_reader", False), ("importance", None), ("effort", 0), ("search", None)):
            if (value := getattr(plan, option)) != unused:
                raise ArgumentError(
                    f"codecs.{name}.{option}",
                    expected=f"{str(unused).lower().replace('none', 'null')}: this codec encodes features",
                    got=value,
                )
    try:
        importance, search = _importance(name, plan, task), _search(name, plan, task)
        return [
            FeaturePipeline(name, codec, task)
            if isinstance(codec, FeatureCodec)
            else ImagePipeline(
                name,
                codec,
                task,
                preprocessor=preprocessor,
                at_reader=plan.at_reader,
                importance=importance,
                search=search,
            )
            for codec, preprocessor in zip(codecs, preprocessors, strict=True)
        ]
    except Exception as error:
        cause = user_message(error)
        if cause is None:
            raise
        raise EvaluationError(f"codecs.{name}: {cause}") from error


def _importance(name: str, plan: CodecPlan, task: Task) -> Importance | None:
    """Build the QP offset settings, on the task's device; None if the curve has none."""
    if plan.importance is None:
        return None
    try:
        importance = Importance(**instantiate(plan.importance))
    except TypeError as error:  # unknown option
        raise EvaluationError(f"codecs.{name}.importance: {error}") from error
    for part in (importance.task, importance.network):
        if part is not None:
            part.to(task.device)
    return importance


def _search(name: str, plan: CodecPlan, task: Task) -> ImageSearch | None:
    """Build the pixel refinement settings, on the task's device; None with effort 0."""
    try:
        search = ImageSearch(plan.effort, **instantiate(plan.search or {}))
    except TypeError as error:  # unknown option
        raise EvaluationError(f"codecs.{name}.search: {error}") from error
    if not search.effort:
        return None
    if search.task is not None:
        search.task.to(task.device)
    return search


def build_codecs(name: str, plan: CodecPlan) -> list[Codec | FeatureCodec]:
    """Build and check one codec per quality, before anything runs.

    Raises:
        EvaluationError: If an option or quality is invalid.
        ArgumentError: If there are no qualities.
        MissingToolError: If the codec cannot run here.
    """
    if not plan.qualities:
        raise ArgumentError(f"codecs.{name}.qualities", expected="a list with at least one quality", got=[])
    try:
        codecs: list[Codec | FeatureCodec] = [
            build("codec", plan.codec, (Codec, FeatureCodec), quality=quality) for quality in plan.qualities
        ]
    except Exception as error:
        cause = user_message(error)
        if cause is None:
            raise
        raise EvaluationError(f"codecs.{name}: {cause}") from error
    reason = codecs[0].unavailable()
    if reason:
        raise MissingToolError(reason)
    return codecs


def build_preprocessors(
    name: str, plan: CodecPlan, default: Mapping[str, Any] | None, codecs: Sequence[Codec | FeatureCodec]
) -> list[Preprocessor | None]:
    """Build the preprocessors of a curve, one per codec.

    Args:
        name: Name of the curve.
        plan: Settings of the curve.
        default: Settings of the preprocessor for curves that do not set one; None for no preprocessor.
        codecs: One codec per quality, from `build_codecs`.

    Returns:
        One preprocessor per codec; None for images that are encoded unchanged.

    Raises:
        ArgumentError: If settings of the curve cannot be combined.
        EvaluationError: If a preprocessor cannot be built, or does not support a codec's quality.
    """
    wanted = default if plan.preprocessor is None else plan.preprocessor
    takes_lmbda = wanted is not None and wanted.get("_target_") == NPP_TARGET
    if plan.preprocessor is not None and isinstance(codecs[0], FeatureCodec):
        raise ArgumentError(
            f"codecs.{name}.preprocessor", expected="null, because this codec encodes features", got=wanted
        )
    if plan.lmbda is not None and not (takes_lmbda and len(plan.lmbda) == len(codecs)):
        raise ArgumentError(
            f"codecs.{name}.lmbda",
            expected=f"null, or, with an NPPPreprocessor, one λ for each of the {len(codecs)} qualities",
            got=list(plan.lmbda),
        )
    if wanted is None or isinstance(codecs[0], FeatureCodec):
        return [None] * len(codecs)
    try:
        if not takes_lmbda:
            return [build("preprocessor", wanted)] * len(codecs)
        lmbdas = [wanted.get("lmbda")] * len(codecs) if plan.lmbda is None else plan.lmbda
        operating_points = [
            {"lmbda": lmbda, "codec": codec.name, "quality": codec.quality}
            for lmbda, codec in zip(lmbdas, codecs, strict=True)
        ]
        first: NPPPreprocessor = build("preprocessor", wanted, NPPPreprocessor, **operating_points[0])
        return [first, *(first.at(**point) for point in operating_points[1:])]
    except Exception as error:
        cause = user_message(error)
        if cause is None:
            raise
        raise EvaluationError(f"codecs.{name}: {cause}") from error
