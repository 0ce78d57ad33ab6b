"""Tools that prove the bus and the driver: faults, broken bytes, long runs, comparison."""
