"""deepseek."""
