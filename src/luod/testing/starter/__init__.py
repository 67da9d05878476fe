"""Starts Python programs without a start of Python: a process that has imported them forks itself for each.

`outside` is the test's side: it starts the process and asks it for machines. `__main__` is that process. A machine's
luoemu is a fork of it, and init of each boot, the agent or a Python program, a fork of that luoemu. An init that is
another program is an exec. `luod.testing.forked` makes a forked process a program. Most of the processor time of a
machine with luod was that of imports.

A program that is forked has the hash seed, the flags and the imported modules of the process that it comes from, and
its /proc/PID/cmdline. Its memory is of the user namespace of that process, not of the machine's, so a machine of a
plain user cannot trace it when it is not dumpable. A test about a start asks for an exec.
"""
