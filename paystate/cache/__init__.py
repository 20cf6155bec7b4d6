"""The cache: hashes of statuses that are proven or not used."""
