"""The twin: the live policy on recorded or invented load."""
