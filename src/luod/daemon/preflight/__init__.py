"""luod's checks before an update, so that no kexec is made blindly (docs/hazards.md, H1, H2, H3, H19, H20, H21).

`check` runs them; `next_kernel` checks the image, `state` the files of sessions, `running` the formats and the memory
of this kernel. Each returns `Finding`s. `luod.daemon.updates.update` decides about refusals.
"""
