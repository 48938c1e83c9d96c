"""Adds the package's configs to Hydra's search path wherever it is installed."""

from hydra.core.config_search_path import ConfigSearchPath
from hydra.plugins.search_path_plugin import SearchPathPlugin


class EntropicStudentConfigs(SearchPathPlugin):
    """Found by Hydra because it is in the namespace package `hydra_plugins`."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Append `entropic_student.conf` after vcm's own configs."""
        search_path.append(provider="entropic_student", path="pkg://entropic_student.conf")
