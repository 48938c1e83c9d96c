"""Format Hydra's, OmegaConf's and Lightning's errors for users."""

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
from vcm.cli.overrides import RENAMED
from vcm.errors import VCMError

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)
"""What the system says of a disk that takes no more."""
_OTHERS = {
    "No trials are completed": "The objective is undefined for every trial. Choose another objective or more "
    "images.",
    "Config group override must be": "A config group cannot be null. Use GROUP=OPTION, or ~GROUP to remove "
    "it.",
}
"""What Optuna's and Hydra's own ValueErrors contain, and what to say instead."""
_UNNAMED_CURVE = "A curve needs a name: +curve@codecs.NAME=[bpg,npp]"
_PLUGIN_EXTRAS = ("joblib", "submitit", "ray", "optuna")
"""Hydra plugins that extras of vcm bring, by the beginning of their options' names."""


def told_error(error: BaseException, command: str = "evaluate") -> str | None:
    """The message for a person, if vcm raised the error or Hydra found a fault in the configuration.

    None for any other error, which is a bug and deserves its traceback.
    """
    link: BaseException | None = error
    while link is not None:
        if cause := _told_cause(link, command):
            return cause
        link = link.__cause__ or link.__context__
    if isinstance(error, (HydraException, OmegaConfBaseException)):  # some of them are OSErrors, too
        return _told_hydra_error(error, command)
    if isinstance(error, OSError):
        return _told_os_error(error)
    if type(error).__name__ == "MisconfigurationException":  # Lightning's, which is slow to import
        return f"trainer: {_first_lines(error)}"
    return next((told for said, told in _OTHERS.items() if said in str(error)), None)


def _told_os_error(error: OSError) -> str | None:
    """A full disk, or a folder that Hydra cannot make for the run."""
    if error.errno in _FULL:
        return f"Cannot write the results: {error.strerror}. Free some space or use another run_dir."
    return f"{error.filename}: {error.strerror}; choose another run_dir." if error.filename else None


def _told_hydra_error(error: Exception, command: str) -> str:
    if isinstance(error, OverrideParseException):
        return _unparsed(error.override)
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        return _unknown_option(error.missing_cfg_file, error.options or ()) or _first_lines(error)
    if isinstance(error, InstantiationException):
        hint = _unknown_argument(str(error))
        return f"{_first_lines(error)}{hint} (HYDRA_FULL_ERROR=1 vcm {command} … shows where.)"
    return _unmatched(str(error), command) or _first_lines(error)


def _told_cause(link: BaseException, command: str) -> str | None:
    """The message of one error in a chain of causes, where it says by itself what is to be mended."""
    if isinstance(link, VCMError):
        return str(link)
    if isinstance(link, MissingMandatoryValue):
        return f"{link.full_key} has no value; give it one: vcm {command} … {link.full_key}=…"
    if isinstance(link, (ConfigKeyError, ConfigAttributeError)) and link.full_key:
        return _unknown_key(link.full_key, link.parent_node, command)
    if isinstance(link, ValidationError) and link.full_key:
        if "not a ListConfig" in str(link):
            return f"{link.full_key} must be a list: {link.full_key}=[…]"
        return f"{link.full_key}: {str(link).splitlines()[0]}"
    return None


def _unknown_key(full_key: str, parent: object, command: str) -> str:
    """For trainer.limt_val_batches: the nearest key, or how to add one that the target takes."""
    first = full_key.removeprefix("module.").partition(".")[0]
    if first in RENAMED:
        return f"There is no setting {full_key}: {first} is called {RENAMED[first]} now."
    if first == "curve":
        return _UNNAMED_CURVE
    prefix, _, key = full_key.rpartition(".")
    known = list(map(str, parent)) if isinstance(parent, DictConfig) else []
    taken = _parameters(parent.get("_target_")) if isinstance(parent, DictConfig) else []
    if key in taken:
        return (
            f"There is no setting {full_key} in this configuration, but its target takes one. "
            f"Add it with +{full_key}=…"
        )
    message = f"There is no setting {full_key}."
    if near := _nearest(key, [*known, *taken]):
        full = f"{prefix}.{near}" if prefix else near
        return f"{message} Did you mean {full if near in known else '+' + full}?"
    return f"{message} `vcm {command} --cfg job`, with the same choices, lists all settings."


def _unknown_argument(message: str) -> str:
    """For +trainer.limt_val_batches=1, which only the target refuses: the nearest of its parameters."""
    target = re.search(r"target '([\w.]+)'", message)
    argument = re.search(r"unexpected keyword argument '(\w+)'", message)
    if not target or not argument:
        return ""
    near = _nearest(argument[1], _parameters(target[1]))
    return f" Did you mean {near}?" if near else ""


def _nearest(name: str, known: Iterable[str]) -> str | None:
    return next(iter(difflib.get_close_matches(name, list(known), n=1, cutoff=0.7)), None)


def _parameters(target: object) -> list[str]:
    """Names of what a `_target_` takes; none where that cannot be known."""
    if not isinstance(target, str):
        return []
    try:
        return [name for name in inspect.signature(get_object(target)).parameters if name != "self"]
    except Exception:  # whatever importing a user's target raises
        return []


def _unparsed(override: str) -> str:
    """For data.test.root=k=1: which argument, and how to quote its value."""
    key, _, value = override.partition("=")
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    quoted = shlex.quote(f'{key}="{escaped}"')
    return (
        f"Cannot parse the argument {override}. A value with any of = , {{ }} [ ] ( ) : ' \" or spaces needs "
        f"quotes, in quotes for the shell: {quoted}"
    )


def _unknown_option(missing: str, there: Sequence[str]) -> str:
    """For "codec/nope": what codec may be; empty where there is no such group.

    `there` are the options that Hydra found on its search path.
    """
    if (plugin := missing.rpartition("/"))[0] in ("hydra/launcher", "hydra/sweeper"):
        extra = next((name for name in _PLUGIN_EXTRAS if plugin[2].startswith(name)), None)
        return (
            f"{missing.replace('/' + plugin[2], '=' + plugin[2])} needs a package that is not installed: "
            f"pip install 'vcm[{extra}]'"
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
    """For "train/npp/smal": the command's experiments; or that it is one of the other command's."""
    command, _, name = missing.partition("/")
    if command not in ("train", "evaluate"):
        for command in ("train", "evaluate"):
            if missing in options(f"experiment/{command}"):
                return f"The config /experiment/{missing} is called /experiment/{command}/{missing} now."
        return f"There is no experiment {missing}."
    other = {"train": "evaluate", "evaluate": "train"}[command]
    if name in options(f"experiment/{other}"):
        return f"{name} is an experiment of vcm {other}: vcm {other} experiment={name}"
    own = options(f"experiment/{command}")
    names = sorted({*own, *there}) if "/" not in name else own
    hint = f" Did you mean {near}?" if (near := _nearest(name, names)) else ""
    return f"experiment must be one of {', '.join(names)}; got {name}.{hint}"


def _unmatched(message: str, command: str) -> str:
    """For an override of a group or key that is not there: its present name, or how it is given."""
    match = re.search(r"Could not override '([\w/@.]+)'|Interpolation key '(\w+)' not found", message)
    group = (match[1] or match[2]) if match else ""
    if group in RENAMED:
        return f"{group} is called {RENAMED[group]} now; change it in your configs."
    if group == "curve":
        return _UNNAMED_CURVE
    if group.startswith("experiment/"):
        other = group.partition("/")[2].partition("/")[0]
        return f"{group} belongs to vcm {other}; in vcm {command} say experiment=NAME."
    return ""


def _first_lines(error: BaseException) -> str:
    """The error's message without the list of places that Hydra looked in, on one line."""
    return " ".join(str(error).partition("Config search path")[0].split())
