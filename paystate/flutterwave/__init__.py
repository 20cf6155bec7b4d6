"""Everything that knows Flutterwave's wire formats: signatures, bodies, and its APIs."""
