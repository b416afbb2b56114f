"""The documentation, and the small program that generates the pages that come from code."""
