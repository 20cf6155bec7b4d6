"""Programs and packages of Node that tests use."""
