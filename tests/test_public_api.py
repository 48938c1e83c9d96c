"""Every public name says what it takes and returns, with types and shapes."""

import inspect
import re
from importlib import import_module

import pytest

PACKAGES = ("codecs", "data", "encoding", "losses", "metrics", "modules", "nn", "tasks")
SHAPE = re.compile(
    r"\([A-Z0-9a-zΣ⌈][^()]*(\([^()]*\)[^()]*)*,?[^()]*\)|scalar|shape|a batch|see `|feature map",
    re.IGNORECASE,
)


def public_names():
    names = [("vcm", name) for name in ("evaluate", "load_model", "load_task")]
    for package in PACKAGES:
        module = import_module(f"vcm.{package}")
        names += [(module.__name__, name) for name in getattr(module, "__all__", ())]
    return names


def parts(owner, name):
    """The object, and the public methods and properties that it defines itself."""
    thing = getattr(import_module(owner), name)
    yield f"{owner}.{name}", thing, None
    if inspect.isclass(thing):
        for key, member in vars(thing).items():
            function = getattr(member, "__func__", getattr(member, "fget", member))
            if isinstance(member, property) and (member.__doc__ or "").startswith("Deprecated"):
                continue
            if not key.startswith("_") and inspect.isfunction(function):
                yield f"{owner}.{name}.{key}", function, thing


def entries(text, heading):
    """Entries of an Args, Attributes or Returns section by name."""
    found = {}
    for section in re.findall(rf"^{heading}:\n((?:    .*\n|\n)*)", text + "\n", re.MULTILINE):
        found.update(re.findall(r"^    (\w+): (.*(?:\n        .*)*)", section, re.MULTILINE))
    return found


@pytest.mark.parametrize(("owner", "name"), public_names())
def test_a_public_name_states_types_and_shapes(owner, name):
    for path, thing, owning in parts(owner, name):
        if not callable(thing):
            continue
        text = inspect.getdoc(thing) or ""
        assert text.strip(), f"{path} has no docstring"
        assert text.split("\n\n")[0].rstrip().endswith((".", ":")), f"{path}: {text.splitlines()[0]}"
        inherited = (
            [] if owning is None else [base for base in owning.__mro__[1:] if hasattr(base, thing.__name__)]
        )
        if inherited or text.startswith("Deprecated"):
            continue  # documented where the interface is
        if inspect.isclass(thing):
            text += "\n\n" + (inspect.getdoc(thing.__init__) or "")
        described = {**entries(text, "Args"), **entries(text, "Attributes")}
        try:
            signature = inspect.signature(thing)
        except ValueError:
            continue
        for parameter in signature.parameters.values():
            if parameter.name in ("self", "cls") or parameter.kind in (
                inspect.Parameter.VAR_POSITIONAL,
                inspect.Parameter.VAR_KEYWORD,
            ):
                continue
            assert parameter.annotation is not inspect.Parameter.empty, (
                f"{path}({parameter.name}) has no type"
            )
            needs_entry = len(signature.parameters) > 2 or "Args:" in text
            if needs_entry and not parameter.name.startswith("_"):
                assert parameter.name in described, f"{path} does not describe {parameter.name}"
            if "Tensor" in str(parameter.annotation):
                said = described.get(parameter.name, text)
                assert SHAPE.search(said), f"{path} states no shape of {parameter.name}: {said!r}"
        if "Tensor" in str(signature.return_annotation) and not inspect.isclass(thing):
            assert SHAPE.search(text), f"{path} states no shape of what it returns"
