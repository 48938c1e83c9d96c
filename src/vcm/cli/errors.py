"""User-readable messages for errors of Hydra, OmegaConf and Lightning."""

from __future__ import annotations

import difflib
import errno
import inspect
import re
import shlex
from collections.abc import Iterable, Sequence

from hydra.errors import (
    HydraException,
    InstantiationException,
    MissingConfigException,
    OverrideParseException,
)
from hydra.utils import get_object
from omegaconf import DictConfig
from omegaconf.errors import (
    ConfigAttributeError,
    ConfigKeyError,
    MissingMandatoryValue,
    OmegaConfBaseException,
    ValidationError,
)

from vcm.cli.options import options
from vcm.cli.overrides import FORMER_SETTINGS, RENAMED
from vcm.errors import VCMError

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)
"""Error codes of a full or read-only disk."""
_OTHERS = {
    "No trials are completed": "The objective is undefined for every trial. Choose another objective or more "
    "images.",
    "Config group override must be": "A config group cannot be null. Use GROUP=OPTION, or ~GROUP to remove "
    "it.",
}
"""Fragments of ValueErrors raised by Optuna and Hydra, with the messages shown instead."""
_UNNAMED_CURVE = "A curve needs a name: +curve@codecs.NAME=[bpg,npp]"
_PLUGIN_EXTRAS = ("joblib", "submitit", "ray", "optuna")
"""Prefixes of the options of Hydra plugins that are installed with vcm's extras of the same names."""


def user_message(error: BaseException, command: str = "evaluate") -> str | None:
    """Return a user-readable message for an error of vcm, or for a mistake in the configuration.

    Return None for any other error: that is a bug, and its traceback should be shown.
    """
    link: BaseException | None = error
    while link is not None:
        if cause := _cause_message(link, command):
            return cause
        link = link.__cause__ or link.__context__
    if isinstance(error, (HydraException, OmegaConfBaseException)):  # some of them are also OSErrors
        return _hydra_error_message(error, command)
    if isinstance(error, OSError):
        return _os_error_message(error)
    if type(error).__name__ == "MisconfigurationException":  # of Lightning, which is slow to import
        return f"trainer: {_first_lines(error)}"
    return next((message for said, message in _OTHERS.items() if said in str(error)), None)


def _os_error_message(error: OSError) -> str | None:
    """Return the message for a full disk, or for a run folder that Hydra cannot create."""
    if error.errno in _FULL:
        return f"Cannot write the results: {error.strerror}. Free some space or use another run_dir."
    return f"{error.filename}: {error.strerror}. Choose another run_dir." if error.filename else None


def _hydra_error_message(error: Exception, command: str) -> str:
    if isinstance(error, OverrideParseException):
        return _unparsed(error.override)
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        return _unknown_option(error.missing_cfg_file, error.options or ()) or _first_lines(error)
    if isinstance(error, InstantiationException):
        hint = _unknown_argument(str(error))
        return f"{_first_lines(error)}{hint} (HYDRA_FULL_ERROR=1 vcm {command} … shows the full traceback.)"
    return _unmatched(str(error), command) or _first_lines(error)


def _cause_message(link: BaseException, command: str) -> str | None:
    """Return the message for one error in a chain of causes, or None if it is not actionable by itself."""
    if isinstance(link, VCMError):
        return str(link)
    if isinstance(link, MissingMandatoryValue):
        return f"{link.full_key} has no value. Set it with: vcm {command} … {link.full_key}=…"
    if isinstance(link, (ConfigKeyError, ConfigAttributeError)) and link.full_key:
        return _unknown_key(link.full_key, link.parent_node, command)
    if isinstance(link, ValidationError) and link.full_key:
        if "not a ListConfig" in str(link):
            return f"{link.full_key} must be a list: {link.full_key}=[…]"
        return f"{link.full_key}: {str(link).splitlines()[0]}"
    return None


def _unknown_key(full_key: str, parent: object, command: str) -> str:
    """Return the message for a key like trainer.limt_val_batches: the closest key, or how to add it."""
    first = full_key.removeprefix("module.").partition(".")[0]
    if first in RENAMED:
        return f"There is no setting {full_key}: {first} was renamed to {RENAMED[first]}."
    if first == "curve":
        return _UNNAMED_CURVE
    prefix, _, key = full_key.rpartition(".")
    known = list(map(str, parent)) if isinstance(parent, DictConfig) else []
    taken = _parameters(parent.get("_target_")) if isinstance(parent, DictConfig) else []
    target = str(parent.get("_target_", "")) if isinstance(parent, DictConfig) else ""
    if target.startswith("vcm.") and (present := FORMER_SETTINGS.get(target.rpartition(".")[2], {}).get(key)):
        return f"There is no setting {full_key}: {key} was renamed to {present}."
    if key in taken:
        return (
            f"There is no setting {full_key} in this configuration, but its target accepts it. "
            f"Add it with +{full_key}=…"
        )
    message = f"There is no setting {full_key}."
    if near := _nearest(key, [*known, *taken]):
        full = f"{prefix}.{near}" if prefix else near
        return f"{message} Did you mean {full if near in known else '+' + full}?"
    return f"{message} List all settings with `vcm {command} --cfg job` and the same options."


def _unknown_argument(message: str) -> str:
    """Return a hint for +trainer.limt_val_batches=1, which only the target rejects: its closest parameter."""
    target = re.search(r"target '([\w.]+)'", message)
    argument = re.search(r"unexpected keyword argument '(\w+)'", message)
    if not target or not argument:
        return ""
    near = _nearest(argument[1], _parameters(target[1]))
    return f" Did you mean {near}?" if near else ""


def _nearest(name: str, known: Iterable[str]) -> str | None:
    return next(iter(difflib.get_close_matches(name, list(known), n=1, cutoff=0.7)), None)


def _parameters(target: object) -> list[str]:
    """Return the parameter names of a `_target_`; empty if they cannot be determined."""
    if not isinstance(target, str):
        return []
    try:
        return [name for name in inspect.signature(get_object(target)).parameters if name != "self"]
    except Exception:  # importing a user's target can raise anything
        return []


def _unparsed(override: str) -> str:
    """Return the message for an override like data.test.root=k=1, with its value quoted."""
    key, _, value = override.partition("=")
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    quoted = shlex.quote(f'{key}="{escaped}"')
    return (
        f"Cannot parse the argument {override}. Quote a value that contains any of = , {{ }} [ ] ( ) : ' "
        f'" or spaces, and quote it again for the shell: {quoted}'
    )


def _unknown_option(missing: str, there: Sequence[str]) -> str:
    """Return the message for an unknown option like "codec/nope"; empty if the group does not exist.

    Args:
        missing: Group and option, as Hydra names them.
        there: Options that Hydra found on its search path.
    """
    if (plugin := missing.rpartition("/"))[0] in ("hydra/launcher", "hydra/sweeper"):
        extra = next((name for name in _PLUGIN_EXTRAS if plugin[2].startswith(name)), None)
        return (
            f"{missing.replace('/' + plugin[2], '=' + plugin[2])} needs a package that is not installed. "
            f"Install it with: pip install 'vcm[{extra}]'"
            if extra
            else ""
        )
    first, _, rest = missing.partition("/")
    if first == "experiment":
        return _unknown_experiment(rest, there)
    group, _, option = missing.rpartition("/")
    names = sorted({*options(group), *there})
    if not names:  # a misspelt folder within a group
        group, option, names = first, rest, options(first)
    if not names:
        return ""
    near = _nearest(option, names)
    hint = f" Did you mean {near}?" if near else ""
    return f"{group} must be one of {', '.join(names)}; got {option}.{hint}"


def _unknown_experiment(missing: str, there: Sequence[str]) -> str:
    """Return the message for an unknown experiment like "train/npp/smal"."""
    command, _, name = missing.partition("/")
    if command not in ("train", "evaluate"):
        for command in ("train", "evaluate"):
            if missing in options(f"experiment/{command}"):
                return f"The config /experiment/{missing} was renamed to /experiment/{command}/{missing}."
        return f"There is no experiment {missing}."
    other = {"train": "evaluate", "evaluate": "train"}[command]
    if name in options(f"experiment/{other}"):
        return f"{name} is an experiment of vcm {other}. Run: vcm {other} experiment={name}"
    own = options(f"experiment/{command}")
    names = sorted({*own, *there}) if "/" not in name else own
    hint = f" Did you mean {near}?" if (near := _nearest(name, names)) else ""
    return f"experiment must be one of {', '.join(names)}; got {name}.{hint}"


def _unmatched(message: str, command: str) -> str:
    """Return the message for an override of an unknown group or key: its new name, or the right syntax."""
    match = re.search(r"Could not override '([\w/@.]+)'|Interpolation key '(\w+)' not found", message)
    group = (match[1] or match[2]) if match else ""
    if group in RENAMED:
        return f"{group} was renamed to {RENAMED[group]}. Change it in your configs."
    if group == "curve":
        return _UNNAMED_CURVE
    if group.startswith("experiment/"):
        other = group.partition("/")[2].partition("/")[0]
        return f"{group} belongs to vcm {other}. With vcm {command}, use experiment=NAME."
    return ""


def _first_lines(error: BaseException) -> str:
    """Return the error's message on one line, without Hydra's list of search paths."""
    return " ".join(str(error).partition("Config search path")[0].split())
