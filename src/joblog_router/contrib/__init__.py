"""Integrations. Each imports its own package only when it is asked for."""
