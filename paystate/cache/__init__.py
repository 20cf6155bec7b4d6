"""The cache: hashes of statuses that are proven or not used."""

from paystate.cache.statuses import Hit, Miss, StatusCache

__all__ = ["Hit", "Miss", "StatusCache"]
