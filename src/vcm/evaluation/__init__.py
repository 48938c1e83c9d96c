"""Evaluation: run pipelines on a dataset and build rate–accuracy curves."""

from vcm.deprecation import former_modules

__getattr__ = former_modules(
    __name__,
    {
        **{
            name: f"vcm.encoding.{name}"
            for name in ("encoder", "preprocessing", "reader", "refinement", "search")
        },
        "systems": "vcm.evaluation.pipelines",
    },
)
