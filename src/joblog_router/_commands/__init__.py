"""The sub-commands of `joblog`; see `joblog_router.cli`.

Each module has `add_arguments` and `run`, is loaded by `cli` when its command is asked for and runs on the main thread;
its docstring is what `--help` says. They read through `Store` and the doctor, import the pipeline, sinks and the core,
and reach contribs by dotted name; errors of this library become an exit status in `cli`.
"""
