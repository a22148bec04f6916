"""The deterministic core: state, and one step from stimuli to decisions. No I/O."""
