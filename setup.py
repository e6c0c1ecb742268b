"""The build; everything but what needs code stands in pyproject.toml."""

from setuptools import setup

setup()
