"""Every way Python runs code, one small test a scenario: whose line is it? `docs/attribution.md` is its table."""
