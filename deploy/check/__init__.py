"""Whether what `deploy/` says is true of the product: offline, by reading both.

Each module has checks that take a `Tree` and return problems, one line each; none if all is well.
`python -m deploy.check` runs them all, and the tools of `debian-packages.txt` where they are.
"""
