"""Payment status that never answers with a pending that has been overtaken."""

from paystate.status import Status
from paystate.updates import Kind

__all__ = ["Kind", "Status", "__version__"]

__version__ = "0.1.0"
