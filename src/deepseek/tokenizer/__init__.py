"""Text to token ids and back, and chat templates that cannot be abused."""
