"""Benchmarks, never part of the tests: `make bench`. Ratios taken in one run; single figures depend on the machine."""
