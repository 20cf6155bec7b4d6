"""The flows: record a webhook, settle what was recorded, answer what was asked."""
