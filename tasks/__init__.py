"""The hands: the only code that touches the systems under care, one file per system."""
