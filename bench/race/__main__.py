"""``python -m bench.race LANE``: run one lane, given as JSON, and print its counts as JSON."""

from __future__ import annotations

import json
import sys

import uvloop

from bench.race.lane import Lane, run
from paystate.logs import configure_logging

if __name__ == "__main__":
    configure_logging("ERROR", "json", "race")
    print(json.dumps(uvloop.run(run(Lane(**json.loads(sys.argv[1]))))))
