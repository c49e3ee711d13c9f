"""Lines of workers elsewhere: `send` on the worker's side (one file, standard library only), `receive` on Django's.

Importing this package imports neither.
"""
