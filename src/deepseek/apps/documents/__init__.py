"""Reading documents: immutable text with a place on the page for every character."""
