"""What the servers say of themselves, and what became of one harmless call to each."""
