"""Scientific papers: what is new, what is weak, with quotes that are checked."""
