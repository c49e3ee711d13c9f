"""The way of a record from a logging call to a sink. Private: imports the standard library, the core and `sinks`."""
