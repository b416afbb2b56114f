"""The grammar every runbook is written in: its nouns, its rules, its gate and its memory."""

__version__ = "0.1.0"
