"""The sub-commands of `joblog`; see `joblog_router.cli`."""
