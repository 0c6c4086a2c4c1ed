"""Reports of an analysis for people: Markdown, and HTML beside the page images."""
