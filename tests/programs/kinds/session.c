/* Creates a session by bare system calls, in C for any ABI: tests/emulator/machine/test_programs.py. */
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>

struct create {
	uint32_t size;
	int32_t fd;
	uint8_t name[64];
};

int main(void)
{
	struct create create = { .size = sizeof(create), .name = "c" };
	int device = open("/dev/liveupdate", O_RDWR);

	if (device < 0 || ioctl(device, 0xBA00, &create) < 0) {
		printf("failed: %s\n", strerror(errno));
		return 1;
	}
	if (open("/dev/liveupdate", O_RDWR) >= 0 || errno != EBUSY) {
		printf("opened twice\n");
		return 1;
	}
	puts(create.fd > device ? "a session" : "no fd");
	return 0;
}
