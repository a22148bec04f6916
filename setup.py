"""Puts the blueprints into the package: in a checkout they stand beside the sources, where people find them."""

from setuptools import find_namespace_packages, setup

setup(
    packages=[*find_namespace_packages("src", include=["dure*"]), "dure.blueprints"],
    package_dir={"": "src", "dure.blueprints": "blueprints"},
)
