"""Management commands; each is named like its module."""
