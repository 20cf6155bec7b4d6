"""A local Flutterwave: payments that are made up, real APIs to ask, and webhooks that misbehave.

`truth` is what is so, `bodies` how it is said, `sender` how it is told, `app` who may ask;
`server` runs them. It is for development, drills and tests; no part that serves payments needs it.
"""

from paystate.flutterwave.sandbox.app import make_app
from paystate.flutterwave.sandbox.config import SandboxConfig
from paystate.flutterwave.sandbox.provider import Sandbox
from paystate.flutterwave.sandbox.sender import Rates, Sender
from paystate.flutterwave.sandbox.server import RunningSandbox, open_sandbox, serve
from paystate.flutterwave.sandbox.truth import Form, Payment, Truth, TruthRefused

__all__ = [
    "Form",
    "Payment",
    "Rates",
    "RunningSandbox",
    "Sandbox",
    "SandboxConfig",
    "Sender",
    "Truth",
    "TruthRefused",
    "make_app",
    "open_sandbox",
    "serve",
]
