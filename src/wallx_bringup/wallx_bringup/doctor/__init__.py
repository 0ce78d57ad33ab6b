"""Checks of everything that a running arm needs; asks and reads only."""
