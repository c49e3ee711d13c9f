"""The half that watches from outside: a connection of its own, what passes the server, and the lines about that.

Put together by `monitor`, imported by nothing else. Imports the modules beside it and the core, never `client`.
Everything in here runs on the monitor's event loop.
"""
