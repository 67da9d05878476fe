/*
 * Init of an emulated machine: carries a memfd over a kexec and checks every byte of it in the next kernel.
 * No libc features beyond system calls, so that it can be linked statically. Exit status 0 after the second boot,
 * otherwise the number of the step that failed, which is also printed.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/reboot.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#define SIZE (3 * 4096 + 123)
#define TOKEN 0x1122334455667788ull

struct session { uint32_t size; int32_t fd; char name[64]; };
struct file { uint32_t size; int32_t fd; uint64_t token; };
struct finish { uint32_t size; uint32_t reserved; };

static void check(int good, int step, const char *what)
{
	if (good)
		return;
	fprintf(stderr, "cycle: step %d: %s: %s\n", step, what, strerror(errno));
	exit(step);
}

static void fill(unsigned char *data)
{
	for (int i = 0; i < SIZE; i++)
		data[i] = (unsigned char)(i * 7 + i / 4096);
}

static void first_boot(int device)
{
	unsigned char data[SIZE];
	struct session create = { .size = sizeof(create), .name = "cycle" };
	struct session name = { .size = sizeof(name) };
	struct file preserve = { .size = sizeof(preserve), .token = TOKEN };

	check(ioctl(device, _IO(0xBA, 0), &create) == 0, 10, "CREATE_SESSION");
	check(ioctl(create.fd, _IO(0xBA, 0x43), &name) == 0, 11, "GET_NAME");
	check(strcmp(name.name, "cycle") == 0, 12, "the name");
	preserve.fd = memfd_create("cycle", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	check(preserve.fd >= 0, 13, "memfd_create");
	fill(data);
	check(write(preserve.fd, data, SIZE) == SIZE, 14, "write");
	check(ioctl(create.fd, _IO(0xBA, 0x40), &preserve) == 0, 15, "PRESERVE_FD");
	check(pwrite(preserve.fd, "!", 1, 5) == 1, 16, "write to a preserved file");
	close(preserve.fd);

	int kernel = open(getenv("LUOEMU_KERNEL"), O_RDONLY | O_CLOEXEC);
	check(kernel >= 0, 17, "open of the kernel image");
	const char *line = "liveupdate=on kho=on cycle=2";
	check(syscall(SYS_kexec_file_load, kernel, -1, strlen(line) + 1, line, 4 /* no initramfs */) == 0, 18, "kexec_file_load");
	syscall(SYS_reboot, LINUX_REBOOT_MAGIC1, LINUX_REBOOT_MAGIC2, LINUX_REBOOT_CMD_KEXEC, NULL);
	check(0, 19, "reboot");
}

static void second_boot(int device)
{
	unsigned char expected[SIZE], data[SIZE];
	struct session retrieve = { .size = sizeof(retrieve), .name = "cycle" };
	struct file file = { .size = sizeof(file), .token = TOKEN };
	struct finish finish = { .size = sizeof(finish) };
	struct stat status;

	check(ioctl(device, _IO(0xBA, 1), &retrieve) == 0, 20, "RETRIEVE_SESSION");
	check(ioctl(retrieve.fd, _IO(0xBA, 0x41), &file) == 0, 21, "RETRIEVE_FD");
	check(fstat(file.fd, &status) == 0 && status.st_size == SIZE, 22, "the size");
	check((status.st_mode & 07777) == 0777, 23, "the mode");
	check(fcntl(file.fd, F_GETFD) == FD_CLOEXEC, 24, "close-on-exec");
	check(lseek(file.fd, 0, SEEK_CUR) == SIZE, 25, "the position");
	check(pread(file.fd, data, SIZE, 0) == SIZE, 26, "read");
	fill(expected);
	expected[5] = '!';
	check(memcmp(data, expected, SIZE) == 0, 27, "the contents");
	check(ioctl(retrieve.fd, _IO(0xBA, 0x42), &finish) == 0, 28, "FINISH");
	puts("carried");
}

int main(void)
{
	const char *boot = getenv("LUOEMU_BOOT");
	int device = open("/dev/liveupdate", O_RDWR | O_CLOEXEC);

	check(boot != NULL, 1, "LUOEMU_BOOT");
	check(device >= 0, 2, "open of /dev/liveupdate");
	if (strcmp(boot, "1") == 0)
		first_boot(device);
	else
		second_boot(device);
	return 0;
}
