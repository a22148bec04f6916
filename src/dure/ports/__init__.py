"""What the core's shells are plugged into: the event log, executors, clocks and ids."""
