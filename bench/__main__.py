"""``python -m bench NAME``: run one measurement."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Callable, Coroutine

from bench import streams

BENCHES: dict[str, Callable[[], Coroutine[None, None, dict[str, object]]]] = {
    "streams": streams.measure
}


def main() -> int:
    """Run the bench that is named and print its figures."""
    if len(sys.argv) != 2 or sys.argv[1] not in BENCHES:
        print(f"usage: python -m bench {{{','.join(BENCHES)}}}", file=sys.stderr)
        return 2
    print(json.dumps(asyncio.run(BENCHES[sys.argv[1]]())))
    return 0


if __name__ == "__main__":
    sys.exit(main())
