"""What luod looks at before an update, so that nothing is jumped into blindly (H1, H2, H3, H19, H20, H21).

`check` does it; `next_kernel` judges the image, `state` what sessions hold, `running` says what this kernel writes and
has room for. Each gives `Finding`s. `luod.daemon.updates.update` decides what a refusal leads to.
"""
