"""The contents of calls and replies as types for both sides: a module for each interface.

Members are spelled as on the wire. `luod.decode` reads the annotations at run time, so these modules do not use
`from __future__ import annotations`. Standard library only.
"""
