"""Boots an emulated machine: its namespaces, its nodes, its init, one boot after another. `luoemu` is `main`.

`boot` starts one boot's processes, `machine` joins boots by jumps, `trap` answers what they ask.
"""
