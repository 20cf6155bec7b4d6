"""The checks: each judges facts, and says what it found and how to mend it."""
