"""linux/kexec.h and linux/reboot.h: the flags of `kexec_file_load(2)`, `kexec_load(2)` and `reboot(2)`. Data only."""

from __future__ import annotations

from luod.static import Final

KEXEC_ON_CRASH: Final = 0x00000001
KEXEC_PRESERVE_CONTEXT: Final = 0x00000002

KEXEC_FILE_UNLOAD: Final = 0x00000001
KEXEC_FILE_ON_CRASH: Final = 0x00000002
KEXEC_FILE_NO_INITRAMFS: Final = 0x00000004
KEXEC_FILE_DEBUG: Final = 0x00000008
KEXEC_FILE_NO_CMA: Final = 0x00000010
KEXEC_FILE_FORCE_DTB: Final = 0x00000020
KEXEC_FILE_FLAGS: Final = 0x0000003F

SYSCTL_LOAD_DISABLED: Final = "kexec_load_disabled"
SYSCTL_LOAD_LIMIT_PANIC: Final = "kexec_load_limit_panic"
SYSCTL_LOAD_LIMIT_REBOOT: Final = "kexec_load_limit_reboot"
"""Files of /proc/sys/kernel (Documentation/admin-guide/sysctl/kernel.rst)."""

COMMAND_LINE_SIZE: Final = 2048
"""Bytes of a kernel command line on x86_64, its NUL included."""

LINUX_REBOOT_MAGIC1: Final = 0xFEE1DEAD
LINUX_REBOOT_MAGIC2: Final = 672274793
LINUX_REBOOT_MAGIC2A: Final = 85072278
LINUX_REBOOT_MAGIC2B: Final = 369367448
LINUX_REBOOT_MAGIC2C: Final = 537993216
LINUX_REBOOT_CMD_RESTART: Final = 0x01234567
LINUX_REBOOT_CMD_HALT: Final = 0xCDEF0123
LINUX_REBOOT_CMD_CAD_ON: Final = 0x89ABCDEF
LINUX_REBOOT_CMD_CAD_OFF: Final = 0x00000000
LINUX_REBOOT_CMD_POWER_OFF: Final = 0x4321FEDC
LINUX_REBOOT_CMD_RESTART2: Final = 0xA1B2C3D4
LINUX_REBOOT_CMD_KEXEC: Final = 0x45584543
