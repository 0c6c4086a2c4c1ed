"""The `deepseek` command: one file a verb."""
