"""The worker process: recorded events become statuses."""
