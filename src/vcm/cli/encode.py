"""`vcm encode`: encode images with a standard codec for a given task network."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from vcm.cli.bulk import Bulk, add_bulk_options
from vcm.cli.compress import add_output_options
from vcm.cli.overrides import FormerOption
from vcm.cli.paths import Batch, Input, Outputs, find_inputs, is_newer, names_a_file, writing
from vcm.cli.preprocess import output_names
from vcm.cli.work import Item, Outcome
from vcm.errors import ArgumentError, MissingToolError
from vcm.weights import IMPORTANCE_YOLOV3_TINY, QA_NPP_BPG, shipped

if TYPE_CHECKING:
    from vcm.codecs import Codec
    from vcm.encoding.encoder import ImageEncoder
    from vcm.encoding.preprocessing import NPPPreprocessor
    from vcm.encoding.reader import Importance
    from vcm.encoding.refinement import OnStep
    from vcm.encoding.search import ImageSearch
    from vcm.nn.importance import ImportanceNetwork
    from vcm.tasks import SplitTask


def run(arguments: Sequence[str]) -> int:
    """Encode images. Returns 0 if all were encoded, 1 if some were skipped, 2 if there was no input."""
    known = _parser().parse_args(arguments)
    bulk = Bulk(known, known.images)
    from vcm.data.reading import find_images

    work = Encoding(known)
    codec = work.check()
    one_name: Path | None = known.output if names_a_file(known.output, known.images) else None
    if one_name is not None and one_name.suffix.lower() != codec.suffix:
        raise ArgumentError(
            "--output", expected=f"a folder, or a name that ends in {codec.suffix}", got=str(one_name)
        )
    batch = Batch("encode")
    inputs, problems = find_inputs(known.images, find_images, "images")
    for problem in problems:
        batch.tell(problem)
    if not inputs:
        return 2
    encoder = work.prepare()
    targets = output_names(inputs, known.output, codec.suffix)
    outputs = Outputs([source.path for source in inputs], overwrite=known.overwrite)

    def place(source: Input) -> Item:
        return Item(source.path, one_name or targets[source])

    def claim(item: Item, goes_on: bool) -> Item:
        # Encoded files carry no provenance: one that an interrupted run did not log is encoded again.
        outputs.claim(
            item.target, item.source, replaceable=lambda: goes_on and is_newer(item.target, item.source)
        )
        return item

    task = None if encoder.task is None else encoder.task.settings()
    settings = {"command": "encode", "encoder": encoder.settings(), "task": task}
    bulk.run(batch, inputs, place, claim, work, settings=settings, is_slow=bool(known.effort))
    return batch.finish()


class Encoding:
    """Encode images one at a time, with networks that are loaded once per process.

    Args:
        known: Arguments of the command.
    """

    def __init__(self, known: argparse.Namespace) -> None:
        self._known = known
        self._encoder: ImageEncoder | None = None

    def __reduce__(self) -> tuple[object, ...]:
        """Pickle without the networks."""
        return Encoding, (self._known,)

    def check(self) -> Codec:
        """Validate the arguments before anything is loaded, and return the codec.

        Raises:
            ArgumentError: If options are invalid or cannot be combined.
        """
        known = self._known
        codec = _codec(known.codec, known.quality, known.preset)
        _importance(known, codec)
        _check_for_is_used(known, codec)
        if known.at_reader and known.reader is None:
            raise ArgumentError("--at-reader", expected="given with --for TASK", got="no --for")
        _search(known, codec)
        return codec

    def prepare(self) -> ImageEncoder:
        """Load the networks and build the encoder."""
        from vcm.encoding.encoder import ImageEncoder

        known = self._known
        codec = self.check()
        importance, search = _importance(known, codec), _search(known, codec)
        if importance is not None and _is_predicted(known):
            importance = replace(importance, network=_network(known))
        task: SplitTask | None = None
        if (importance is not None and importance.needs_task) or known.at_reader or search is not None:
            from vcm.cli.tasks import load_task

            task = load_task(known.reader, known.device, argument="--for")
        self._encoder = ImageEncoder(
            codec,
            task,
            preprocessor=_preprocessor(known, codec),
            at_reader=known.at_reader,
            importance=importance,
            search=search,
        )
        return self._encoder

    def __call__(self, item: Item, on_step: OnStep | None = None) -> Outcome:
        """Encode one image and write the file."""
        from vcm.data.reading import read_image

        encoder = self._encoder or self.prepare()
        image = read_image(item.source)
        data = encoder.encode(image, on_step)
        with writing(item.target) as file:
            file.write(data)
        return Outcome(item, len(data), image.shape[1] * image.shape[2])


def _codec(name: str, quality: float | None, preset: str | None) -> Codec:
    from vcm.cli.codecs import standard_codecs

    kinds = standard_codecs()
    if name not in kinds:
        raise ArgumentError(
            "--codec",
            expected=f"one of {', '.join(kinds)}",
            got=name,
            remedy="For vcm's learned codecs, use `vcm compress`.",
        )
    kind = kinds[name]
    if reason := kind.unavailable():
        raise MissingToolError(reason)
    options = {} if preset is None else {"preset": preset}
    if preset is not None and name != "bpg":
        raise ArgumentError("--preset", expected="given with --codec bpg only", got=name)
    return kind(**options) if quality is None else kind(quality, **options)  # type: ignore[call-arg]


def _check_for_is_used(known: argparse.Namespace, codec: Codec) -> None:
    """Raise ArgumentError if --for or --no-importance has no effect."""
    from vcm.encoding.reader import takes_offsets

    if known.reader is None:
        if known.no_importance:
            raise ArgumentError("--no-importance", expected="given with --for TASK", got="no --for")
        return
    runs_task = takes_offsets(codec) and not (known.no_importance or _is_predicted(known))
    if not (known.at_reader or known.effort or runs_task):
        raise ArgumentError(
            "--for",
            expected=f"given with --at-reader, since {codec.name} gets no QP offsets from TASK here",
            got=known.reader,
            remedy="Add --at-reader, or remove --for.",
        )


def _importance(known: argparse.Namespace, codec: Codec) -> Importance | None:
    """Return the QP offset settings; None if nothing asks for them, or the codec does not take them."""
    from vcm.encoding.reader import NETWORK_ALPHA, Importance, takes_offsets

    options = ("alpha", "block", "clip", "importance_model", "predict_importance")
    given = {name: getattr(known, name) for name in options}
    given = {name: value for name, value in given.items() if value is not None and value is not False}
    is_wanted = known.reader is not None or _is_predicted(known)
    if not is_wanted or known.no_importance or not takes_offsets(codec):
        if given:
            raise ArgumentError(
                f"--{next(iter(given)).replace('_', '-')}",
                expected="given with --for TASK or --predict-importance and --codec bpg, without "
                "--no-importance",
                got=str(next(iter(given.values()))),
            )
        return None
    settings = {name: given[name] for name in ("alpha", "block", "clip") if name in given}
    return Importance(**({"alpha": NETWORK_ALPHA, **settings} if _is_predicted(known) else settings))


def _is_predicted(known: argparse.Namespace) -> bool:
    """Return whether a network predicts the importance map."""
    return known.predict_importance or known.importance_model is not None


def _network(known: argparse.Namespace) -> ImportanceNetwork:
    """Load the network of --predict-importance."""
    from vcm.cli.devices import choose_device
    from vcm.nn.importance import load_importance

    network = load_importance(known.importance_model or shipped(IMPORTANCE_YOLOV3_TINY))
    return network.to(choose_device(known.device))


def _search(known: argparse.Namespace, codec: Codec) -> ImageSearch | None:
    """Return the pixel refinement settings; None with --effort 0."""
    from vcm.encoding.search import ImageSearch, check_searchable

    search = ImageSearch(known.effort)
    if not search.effort:
        return None
    if known.reader is None:
        raise ArgumentError("--effort", expected="0 without --for TASK", got=known.effort)
    check_searchable(codec)
    return search


def _preprocessor(known: argparse.Namespace, codec: Codec) -> NPPPreprocessor | None:
    """Return the preprocessor of --npp; None without --npp."""
    if not known.npp:
        for option, value in (("--lmbda", known.lmbda), ("--model", known.model)):
            if value is not None:
                raise ArgumentError(option, expected="given with --npp", got=value)
        return None
    from vcm.cli.devices import choose_device
    from vcm.encoding.preprocessing import NPPPreprocessor

    device = str(choose_device(known.device))
    path, lmbda = known.model or shipped(QA_NPP_BPG), known.lmbda
    try:
        return NPPPreprocessor(path, lmbda=lmbda, codec=codec.name, quality=codec.quality, device=device)
    except ArgumentError as error:
        if error.argument != "lmbda" or lmbda is not None:
            raise
        noted = f"{path.name} notes no λ for {codec.name} at {codec.quality:g}"
        raise ArgumentError("--lmbda", expected=f"set, because {noted}", got="no --lmbda") from error


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="vcm encode",
        description="Encode images with a standard codec for a given task network. With --for, BPG spends "
        "more bits on the regions that the network's outputs depend on; with --predict-importance, on those "
        "that a small network predicts. --at-reader also scales images down to the network's input size. "
        "Every decoder of the format reads the files. Rates in bpp are relative to the original number of "
        "pixels.",
    )
    parser.add_argument("images", nargs="+", type=Path, metavar="IMG", help="images, or folders of images")
    parser.add_argument("--codec", default="bpg", help="codec, see `vcm codecs`; default: bpg")
    parser.add_argument(
        "--quality", type=float, metavar="Q", help="quality on the codec's own scale, e.g. QP 0 to 51 for BPG"
    )
    parser.add_argument("--preset", help="BPG preset, ultrafast to placebo; default: veryslow")
    parser.add_argument(
        "--for",
        dest="reader",
        metavar="TASK",
        help="task network that reads the images: detection (yolov3_tiny), classification (mobilenet_v2), or "
        "any other name of `vcm evaluate task=…`",
    )
    parser.add_argument(
        "--at-reader", action="store_true", help="scale images down to the input size of TASK; never up"
    )
    parser.add_argument("--no-importance", action="store_true", help="use the same QP everywhere")
    parser.add_argument("--alpha", type=float, help="QP steps for each doubling of importance")
    parser.add_argument("--block", type=int, help="side of a block with its own QP, in pixels: 16, 32 or 64")
    parser.add_argument("--clip", type=int, help="largest absolute QP offset, 0 to 51")
    parser.add_argument(
        "--predict-importance",
        action="store_true",
        help="predict with a small network which blocks matter, instead of running TASK",
    )
    parser.add_argument(
        "--importance-model",
        type=Path,
        metavar="M",
        help="network of --predict-importance: model.safetensors written by `vcm train`; default: the one "
        "shipped with vcm, for yolov3-tiny",
    )
    parser.add_argument("--npp", action="store_true", help="filter images with a preprocessor first")
    parser.add_argument(
        "--model",
        type=Path,
        metavar="M",
        help="preprocessor of --npp: model.safetensors written by `vcm train`; default: the one shipped with "
        "vcm, for BPG",
    )
    parser.add_argument(
        "--lmbda",
        type=float,
        metavar="L",
        help="λ of the preprocessor of --npp; default: the λ it was trained with at this quality",
    )
    parser.add_argument(
        "--rate",
        dest="lmbda",
        type=float,
        help=argparse.SUPPRESS,
        action=FormerOption,
        present="--lmbda",
    )
    parser.add_argument(
        "--effort",
        type=int,
        default=0,
        metavar="N",
        help="gradient steps that refine each image's pixels for TASK, some tenths of a second each; needs "
        "--for and BPG; default: 0",
    )
    add_output_options(parser, "output folder, which mirrors the input folders, or the name of one output")
    add_bulk_options(parser)
    return parser
