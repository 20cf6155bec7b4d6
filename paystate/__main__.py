"""``python -m paystate`` is the command line too."""

from __future__ import annotations

from paystate.cli import main

if __name__ == "__main__":
    main()
