"""`luod-fleet`: rehearses a roll-out of Ansible on emulated hosts, before it is done on real ones.

Each host is a machine of `luoemu` with its own luod, guests, state and boot id. Unmodified Ansible reaches it by a
program in place of ssh. Faults of a TOML file are injected. It is not a test of hardware, of a kernel, or of ssh.

`main` is the command line, `rehearsal` the order of a run, `host` a host from outside, `init` its PID 1, `guest` a VMM
in it, `remote` and `ssh` how commands enter it, `ansible` what Ansible is given and what it printed, `faults` the file,
`outcome` the report, `text` and `page` how the report is shown. Only Python's standard library is needed, and Ansible.
"""
