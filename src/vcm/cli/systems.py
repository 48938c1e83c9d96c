"""Build the codecs, preprocessors and pipelines of `vcm evaluate`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hydra.utils import instantiate

from vcm.cli.composition import told_error
from vcm.codecs import Codec, FeatureCodec
from vcm.config import CodecPlan
from vcm.errors import ArgumentError, EvaluationError, MissingToolError
from vcm.evaluation.encoder import Preprocessor
from vcm.evaluation.features import FeatureSystem
from vcm.evaluation.preprocessing import NPPPreprocessor
from vcm.evaluation.reader import Importance
from vcm.evaluation.search import ImageSearch
from vcm.evaluation.systems import ImageSystem, System
from vcm.tasks import Task

NPP_TARGET = f"{NPPPreprocessor.__module__}.{NPPPreprocessor.__qualname__}"


def build(
    name: str, plan: Mapping[str, Any], kind: type | tuple[type, ...] = object, **settings: object
) -> Any:  # noqa: ANN401  a `kind`
    """What the configuration's part called `name` describes.

    Raises:
        ArgumentError: If it describes something else than a `kind`.
    """
    built = instantiate(plan, **settings)
    if not isinstance(built, kind):
        first = kind[0] if isinstance(kind, tuple) else kind
        package = ".".join(first.__module__.split(".")[:2])
        raise ArgumentError(
            name,
            expected=f"settings whose _target_ gives a {package}.{first.__name__}",
            got=f"_target_={plan.get('_target_')}",
        )
    return built


def build_systems(
    name: str,
    plan: CodecPlan,
    codecs: Sequence[Codec | FeatureCodec],
    preprocessors: Sequence[Preprocessor | None],
    task: Task,
) -> list[System]:
    """One system a quality.

    Args:
        name: The curve's name.
        plan: The curve.
        codecs: As `build_codecs` gives them.
        preprocessors: As `build_preprocessors` gives them.
        task: The reader.

    Raises:
        ArgumentError: If the curve's settings do not go together.
        EvaluationError: If the importance cannot be built.
    """
    if isinstance(codecs[0], FeatureCodec):
        for option, unused in (("at_reader", False), ("importance", None), ("effort", 0), ("search", None)):
            if (value := getattr(plan, option)) != unused:
                raise ArgumentError(
                    f"codecs.{name}.{option}",
                    expected=f"{str(unused).lower().replace('none', 'null')}: this codec takes no images",
                    got=value,
                )
    try:
        importance, search = _importance(name, plan, task), _search(name, plan, task)
        return [
            FeatureSystem(name, codec, task)
            if isinstance(codec, FeatureCodec)
            else ImageSystem(
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
        cause = told_error(error)
        if cause is None:
            raise
        raise EvaluationError(f"codecs.{name}: {cause}") from error


def _importance(name: str, plan: CodecPlan, task: Task) -> Importance | None:
    """How QP offsets are made; on the task's device."""
    if plan.importance is None:
        return None
    try:
        importance = Importance(**instantiate(plan.importance))
    except TypeError as error:  # an option that it does not have
        raise EvaluationError(f"codecs.{name}.importance: {error}") from error
    if importance.task is not None:
        importance.task.to(task.device)
    return importance


def _search(name: str, plan: CodecPlan, task: Task) -> ImageSearch | None:
    """How pixels are refined; on the task's device."""
    try:
        search = ImageSearch(plan.effort, **instantiate(plan.search or {}))
    except TypeError as error:  # an option that it does not have
        raise EvaluationError(f"codecs.{name}.search: {error}") from error
    if not search.effort:
        return None
    if search.task is not None:
        search.task.to(task.device)
    return search


def build_codecs(name: str, plan: CodecPlan) -> list[Codec | FeatureCodec]:
    """One codec a quality, all of them checked before anything runs.

    Raises:
        EvaluationError: If an option or quality is not what it may be.
        ArgumentError: If no quality is given.
        MissingToolError: If the codec cannot run here.
    """
    if not plan.qualities:
        raise ArgumentError(f"codecs.{name}.qualities", expected="a list of at least one quality", got=[])
    try:
        codecs: list[Codec | FeatureCodec] = [
            build("codec", plan.codec, (Codec, FeatureCodec), quality=quality) for quality in plan.qualities
        ]
    except Exception as error:
        cause = told_error(error)
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
    """What changes the images before each of a curve's codecs.

    Args:
        name: The curve's name.
        plan: The curve.
        default: How to build the preprocessor of curves without one of their own; None for nothing.
        codecs: One a quality, as `build_codecs` gives them.

    Raises:
        ArgumentError: If the curve's settings do not go together.
        EvaluationError: If a preprocessor cannot be built, or not for a codec's quality.
    """
    wanted = default if plan.preprocessor is None else plan.preprocessor
    takes_lmbda = wanted is not None and wanted.get("_target_") == NPP_TARGET
    if plan.preprocessor is not None and isinstance(codecs[0], FeatureCodec):
        raise ArgumentError(
            f"codecs.{name}.preprocessor", expected="null: this codec takes no images", got=wanted
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
        cause = told_error(error)
        if cause is None:
            raise
        raise EvaluationError(f"codecs.{name}: {cause}") from error
