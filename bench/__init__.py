"""Measurements: ``python -m bench NAME``. The last line of each is one JSON object."""
