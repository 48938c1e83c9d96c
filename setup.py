"""conf/ lies at the top of the repository and ships as vcm.conf; the rest is in pyproject.toml."""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages("src"), "vcm.conf"],
    package_dir={"": "src", "vcm.conf": "conf"},
    include_package_data=False,  # or setuptools warns of each folder of data: a forgotten package?
    package_data={"vcm.conf": ["**/*.yaml"], "vcm": ["py.typed", "**/*.j2", "weights/*"]},
)
