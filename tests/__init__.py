"""Tests mirror the packages. What several of them share is in `tests/helpers`, fixtures are in `conftest.py`."""
