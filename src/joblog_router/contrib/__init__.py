"""Integrations. Each imports its own package only when it is asked for.

They may import all that is outside of here, no other integration but where `lint-imports` allows it in pyproject.toml,
and nothing imports them. A module that says no more may import that, and in `django` and `nats` of its own package what
stands in a layer below it.
"""
