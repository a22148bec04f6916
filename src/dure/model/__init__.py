"""The nouns: members, fleet, jobs, terms. No I/O, no policy."""
