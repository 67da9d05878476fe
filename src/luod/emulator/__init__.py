"""The emulated machine.

`machine` boots it, `trap` brings a process's system calls to `model`, and `model` stands for the kernel. Outside this
package only `luod.testing` imports it. See docs/design.md.
"""
