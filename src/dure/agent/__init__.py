"""The agent of a site: asks the service which leases it should have, and makes it so with an executor."""
