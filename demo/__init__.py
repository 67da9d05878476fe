"""The main job as a story: `make demo`. `scenario` drives a machine from outside, `vmm` runs inside it."""
