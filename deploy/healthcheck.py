"""Ask the process of this container whether it is alive: `python healthcheck.py PORT`.

The argument is the variable that holds the port: PORT for the web process, WORKER_PORT for the
worker. Exits with 0 if `/healthz` answers 200, with 1 if not. Standard library only: it is run
every few seconds.
"""

import http.client
import os
import sys

# What the settings say where a variable is not set; a check compares them.
DEFAULTS = {"PORT": 8080, "WORKER_PORT": 8081}
TIMEOUT_S = 2.0


def alive(port: int) -> bool:
    """Say whether the process that listens on `port` turns its event loop."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_S)
    try:
        connection.request("GET", "/healthz")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


if __name__ == "__main__":
    variable = sys.argv[1]
    sys.exit(0 if alive(int(os.environ.get(variable) or DEFAULTS[variable])) else 1)
