"""The web process: webhooks in, statuses out."""
