"""Runs the commands of the guides as they are printed."""
