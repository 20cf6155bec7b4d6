"""The description of the API: one table of operations, from which OpenAPI and a page are made."""
