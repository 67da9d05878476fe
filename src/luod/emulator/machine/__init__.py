"""Boots an emulated machine: namespaces, nodes, and init, one boot after another. `main` is the program `luoemu`.

`boot` starts the processes of one boot, `machine` connects boots over kexec, `trap` answers the system calls.
"""
