"""The half that lives in the application: wrappers around its own nats-py client, and the lines about what it did.

Put in place by `instrumentation`, imported by nothing else. Imports the modules beside it and the core, never
`monitoring`. Everything in here runs on the event loop that runs the wrapped client.
"""
