"""The live service: HTTP API, the single writer around the core, identity, metering."""
