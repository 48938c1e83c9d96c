"""Hydra's and OmegaConf's errors in words for a person."""

from __future__ import annotations

from importlib import resources

from hydra.errors import HydraException, InstantiationException, MissingConfigException
from omegaconf.errors import ConfigKeyError, MissingMandatoryValue, OmegaConfBaseException, ValidationError

from vcm.errors import VCMError


def told_error(error: BaseException, command: str = "evaluate") -> str | None:
    """The message for a person, if vcm raised the error or Hydra found a fault in the configuration.

    None for any other error, which is a bug and deserves its traceback.
    """
    link: BaseException | None = error
    while link is not None:
        if cause := _told_cause(link, command):
            return cause
        link = link.__cause__ or link.__context__
    if isinstance(error, OSError) and error.filename:  # the run's folder, which Hydra makes
        return f"{error.filename}: {error.strerror}; choose another run_dir."
    if isinstance(error, ValueError) and "Config group override must be" in str(error):  # Hydra's
        return "null is no option of a group: say GROUP=OPTION, or ~GROUP to leave one out."
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        return _unknown_option(error.missing_cfg_file) or _first_lines(error)
    if isinstance(error, InstantiationException):
        return f"{_first_lines(error)} (HYDRA_FULL_ERROR=1 vcm {command} … shows where.)"
    return _first_lines(error) if isinstance(error, (HydraException, OmegaConfBaseException)) else None


def _told_cause(link: BaseException, command: str) -> str | None:
    """The message of one error in a chain of causes, where it says by itself what is to be mended."""
    if isinstance(link, VCMError):
        return str(link)
    if isinstance(link, MissingMandatoryValue):
        return f"{link.full_key} has no value; give it one: vcm {command} … {link.full_key}=…"
    if isinstance(link, ConfigKeyError) and link.full_key:
        return (
            f"there is no setting {link.full_key}. `vcm {command} --cfg job`, with the same choices, "
            f"shows all there are; +{link.full_key}=… adds one that a class takes beyond them."
        )
    if isinstance(link, ValidationError) and link.full_key:
        if "not a ListConfig" in str(link):
            return f"{link.full_key} must be a list: {link.full_key}=[…]"
        return f"{link.full_key}: {str(link).splitlines()[0]}"
    return None


def _unknown_option(missing: str) -> str:
    """For "codec/nope": what codec may be; empty where there is no such group."""
    group, _, option = missing.rpartition("/")
    folder = resources.files("vcm.conf").joinpath(group)
    if not group or not folder.is_dir():
        return ""
    names = sorted(
        file.name.removesuffix(".yaml") for file in folder.iterdir() if file.name.endswith(".yaml")
    )
    return f"{group} must be one of {', '.join(names)}; got {option}."


def _first_lines(error: BaseException) -> str:
    """The error's message without the list of places that Hydra looked in, on one line."""
    return " ".join(str(error).partition("Config search path")[0].split())
