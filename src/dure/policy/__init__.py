"""Pure deciding on arrays: order, quota, placement, preemption, backfill, power."""
