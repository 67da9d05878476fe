/*
 * Init of an emulated machine with a device: what the document asks of luod and of a VMM, from the open of the device's
 * file to FINISH in the next kernel. luod is the process that begins; it forks the VMM and gives it the session over a
 * Unix socket. The guest is a number in memory, to which the device adds by DMA, before the update and after it.
 * No library: system calls, and structures as the kernel's headers lay them out. Exit status 0 after the second boot,
 * otherwise the number of the step that failed, which is also printed.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <dirent.h>
#include <linux/reboot.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define PCI "/sys/bus/pci/"
#define ADDRESS "0000:01:00.0"
#define RAM (1 << 20)
#define IOVA 0x100000ull
enum { RAM_TOKEN = 1, DEVICE_TOKEN = 2 };

/* linux/liveupdate.h */
struct session { uint32_t size; int32_t fd; char name[64]; };
struct file { uint32_t size; int32_t fd; uint64_t token; };
struct finish { uint32_t size; uint32_t reserved; };
#define CREATE_SESSION _IO(0xBA, 0x00)
#define RETRIEVE_SESSION _IO(0xBA, 0x01)
#define PRESERVE_FD _IO(0xBA, 0x40)
#define RETRIEVE_FD _IO(0xBA, 0x41)
#define FINISH _IO(0xBA, 0x42)

/* linux/vfio.h */
struct bind { uint32_t argsz, flags; int32_t iommufd; uint32_t out_devid; };
struct attach { uint32_t argsz, flags, pt_id; };
struct info { uint32_t argsz, flags, num_regions, num_irqs, cap_offset, pad; };
struct region { uint32_t argsz, flags, index, cap_offset; uint64_t size, offset; };
struct irqs { uint32_t argsz, flags, index, start, count; int32_t fds[1]; };
#define DEVICE_GET_INFO _IO(';', 107)
#define DEVICE_GET_REGION_INFO _IO(';', 108)
#define DEVICE_SET_IRQS _IO(';', 110)
#define DEVICE_BIND_IOMMUFD _IO(';', 118)
#define DEVICE_ATTACH_IOMMUFD_PT _IO(';', 119)
enum { FLAG_PCI = 2, REGION_MMAP = 4, BAR0 = 0, CONFIG = 7, MSIX = 2 };
enum { DATA_NONE = 1, DATA_EVENTFD = 4, ACTION_TRIGGER = 32 };

/* linux/iommufd.h */
struct ioas_alloc { uint32_t size, flags, out_ioas_id; };
struct ioas_map { uint32_t size, flags, ioas_id, reserved; uint64_t user_va, length, iova; };
#define IOAS_ALLOC _IO(';', 0x81)
#define IOAS_MAP _IO(';', 0x85)
enum { FIXED_IOVA = 1, WRITEABLE = 2, READABLE = 4 };

/* The device: the first registers of BAR 0. */
struct registers {
	uint32_t identity, status, doorbell, vector;
	uint64_t source, destination, length, value;
	uint32_t count, pad;
	uint64_t scratch;
};
enum { SUM = 1, DONE = 1 };

/* What the guest has: bytes to be added, and where the device writes their sum. */
struct guest { uint8_t data[4096]; uint64_t total; };

struct vmm {
	int device, iommufd, interrupt;
	struct region bar, config;
	volatile struct registers *mapped; /* NULL where this machine's BARs cannot be mapped */
	struct guest *guest;
};

static void check(int good, int step, const char *what)
{
	if (good)
		return;
	fprintf(stderr, "vmm: step %d: %s: %s\n", step, what, strerror(errno));
	_exit(step);
}

static void refused(int result, int code, int step, const char *what)
{
	check(result < 0 && errno == code, step, what);
}

static void write_file(const char *path, const char *text, int step)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC);

	check(fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text), step, path);
	close(fd);
}

static void bind_driver(void)
{
	write_file(PCI "devices/" ADDRESS "/driver_override", "vfio-pci", 10);
	write_file(PCI "drivers_probe", ADDRESS, 11);
}

/* /dev/vfio/devices/vfioN of the device. */
static int open_device(void)
{
	DIR *directory = opendir(PCI "devices/" ADDRESS "/vfio-dev");
	struct dirent *entry;
	char path[sizeof(entry->d_name) + 32] = "";

	check(directory != NULL, 12, "vfio-dev");
	while ((entry = readdir(directory)))
		if (!strncmp(entry->d_name, "vfio", 4))
			snprintf(path, sizeof(path), "/dev/vfio/devices/%s", entry->d_name);
	closedir(directory);
	return open(path, O_RDWR | O_CLOEXEC);
}

static struct region region(struct vmm *vmm, int index)
{
	struct region found = { .argsz = sizeof(found), .index = index };

	check(ioctl(vmm->device, DEVICE_GET_REGION_INFO, &found) == 0, 13, "GET_REGION_INFO");
	return found;
}

static int set_interrupt(struct vmm *vmm, int eventfd)
{
	int on = eventfd >= 0;
	struct irqs irqs = {
		.argsz = sizeof(irqs) - !on * sizeof(irqs.fds),
		.flags = (on ? DATA_EVENTFD : DATA_NONE) | ACTION_TRIGGER,
		.index = MSIX,
		.count = on,
		.fds = { eventfd },
	};

	return ioctl(vmm->device, DEVICE_SET_IRQS, &irqs);
}

/* Gives the device, whose file is not bound yet, to an iommufd of its own that maps the guest's memory. */
static void set_up(struct vmm *vmm)
{
	struct info info = { .argsz = sizeof(info) };
	struct bind bind = { .argsz = sizeof(bind) };
	struct ioas_alloc ioas = { .size = sizeof(ioas) };
	struct attach attach = { .argsz = sizeof(attach) };
	struct ioas_map map = {
		.size = sizeof(map), .flags = FIXED_IOVA | WRITEABLE | READABLE,
		.user_va = (uintptr_t)vmm->guest, .length = RAM, .iova = IOVA,
	};
	uint16_t command;

	refused(ioctl(vmm->device, DEVICE_GET_INFO, &info), EINVAL, 20, "GET_INFO before BIND_IOMMUFD");
	vmm->iommufd = bind.iommufd = open("/dev/iommu", O_RDWR | O_CLOEXEC);
	check(vmm->iommufd >= 0, 21, "/dev/iommu");
	check(ioctl(vmm->device, DEVICE_BIND_IOMMUFD, &bind) == 0, 22, "BIND_IOMMUFD");
	check(ioctl(vmm->device, DEVICE_GET_INFO, &info) == 0 && info.flags & FLAG_PCI, 23, "GET_INFO");
	check(ioctl(vmm->iommufd, IOAS_ALLOC, &ioas) == 0, 24, "IOAS_ALLOC");
	attach.pt_id = map.ioas_id = ioas.out_ioas_id;
	check(ioctl(vmm->device, DEVICE_ATTACH_IOMMUFD_PT, &attach) == 0, 25, "ATTACH_IOMMUFD_PT");
	check(ioctl(vmm->iommufd, IOAS_MAP, &map) == 0, 26, "IOAS_MAP");

	vmm->bar = region(vmm, BAR0);
	vmm->config = region(vmm, CONFIG);
	if (vmm->bar.flags & REGION_MMAP) {
		vmm->mapped = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, vmm->device, vmm->bar.offset);
		check(vmm->mapped != MAP_FAILED, 27, "mmap of BAR 0");
	}
	check(pread(vmm->device, &command, 2, vmm->config.offset + 4) == 2, 28, "the command register");
	command |= 4; /* bus master */
	check(pwrite(vmm->device, &command, 2, vmm->config.offset + 4) == 2, 29, "the command register");
	vmm->interrupt = eventfd(0, EFD_CLOEXEC);
	check(set_interrupt(vmm, vmm->interrupt) == 0, 30, "SET_IRQS");
}

static struct registers look(struct vmm *vmm)
{
	struct registers now;

	check(pread(vmm->device, &now, sizeof(now), vmm->bar.offset) == sizeof(now), 31, "read of BAR 0");
	return now;
}

/* The device adds up the guest's data onto `value`; its interrupt says when the sum is in the guest's memory. */
static void compute(struct vmm *vmm, uint64_t value)
{
	struct registers order = {
		.vector = 1, .source = IOVA, .length = sizeof(vmm->guest->data), .value = value, .scratch = value,
		.destination = IOVA + offsetof(struct guest, total),
	};
	const uint32_t sum = SUM;
	uint64_t heard;

	if (vmm->mapped) {
		vmm->mapped->vector = order.vector;
		vmm->mapped->source = order.source;
		vmm->mapped->destination = order.destination;
		vmm->mapped->length = order.length;
		vmm->mapped->value = order.value;
		vmm->mapped->scratch = order.scratch;
		vmm->mapped->doorbell = sum;
	} else {
		size_t from = offsetof(struct registers, vector);
		size_t length = offsetof(struct registers, count) - from;

		check(pwrite(vmm->device, (char *)&order + from, length, vmm->bar.offset + from) == (ssize_t)length, 40,
		      "BAR 0");
		from = offsetof(struct registers, scratch);
		check(pwrite(vmm->device, &order.scratch, 8, vmm->bar.offset + from) == 8, 41, "BAR 0");
		from = offsetof(struct registers, doorbell);
		check(pwrite(vmm->device, &sum, sizeof(sum), vmm->bar.offset + from) == sizeof(sum), 42, "the doorbell");
	}
	check(read(vmm->interrupt, &heard, sizeof(heard)) == sizeof(heard) && heard == 1, 43, "the interrupt");
	check(look(vmm).status == DONE, 44, "the device's status");
}

static uint64_t sum_of(const struct guest *guest)
{
	uint64_t sum = 0;

	for (size_t i = 0; i < sizeof(guest->data); i++)
		sum += guest->data[i];
	return sum;
}

/* The VMM in the first boot. Each byte of `luod` is one thing done; it closes everything by its end. */
static void run(int luod, int session)
{
	struct vmm vmm = { .device = open_device() };
	struct file ram = { .size = sizeof(ram), .token = RAM_TOKEN };
	struct file device = { .size = sizeof(device), .token = DEVICE_TOKEN, .fd = vmm.device };
	struct registers now;
	char word;

	check(vmm.device >= 0, 50, "open of the device");
	ram.fd = memfd_create("ram", MFD_CLOEXEC);
	check(ram.fd >= 0 && ftruncate(ram.fd, RAM) == 0, 51, "memfd");
	vmm.guest = mmap(NULL, RAM, PROT_READ | PROT_WRITE, MAP_SHARED, ram.fd, 0);
	check(vmm.guest != MAP_FAILED, 52, "mmap of memory");
	memset(vmm.guest->data, 3, sizeof(vmm.guest->data));
	set_up(&vmm);
	compute(&vmm, 0);
	check(vmm.guest->total == sum_of(vmm.guest), 53, "the sum");

	check(ioctl(session, PRESERVE_FD, &ram) == 0, 54, "PRESERVE_FD of memory");
	device.fd = vmm.iommufd;
	refused(ioctl(session, PRESERVE_FD, &device), ENOENT, 55, "PRESERVE_FD of the iommufd");
	device.fd = vmm.device;
	check(ioctl(session, PRESERVE_FD, &device) == 0, 56, "PRESERVE_FD of the device");
	compute(&vmm, vmm.guest->total);
	check(vmm.guest->total == 2 * sum_of(vmm.guest), 57, "the sum while it is preserved");

	/* luod tries to jump while interrupts are on, and comes back. */
	check(write(luod, "i", 1) == 1 && read(luod, &word, 1) == 1, 58, "luod");
	compute(&vmm, vmm.guest->total);
	check(set_interrupt(&vmm, -1) == 0, 59, "SET_IRQS");
	now = look(&vmm);
	check(now.count == 3 && now.scratch == 2 * sum_of(vmm.guest), 60, "the registers");
	check(write(luod, "q", 1) == 1, 61, "luod");
}

/* The VMM in the second boot. */
static void run_again(int luod, int session)
{
	struct vmm vmm = { .device = -1 };
	struct file ram = { .size = sizeof(ram), .token = RAM_TOKEN };
	struct file device = { .size = sizeof(device), .token = DEVICE_TOKEN };
	struct finish finish = { .size = sizeof(finish) };
	struct registers now;
	uint64_t before;
	int other;

	check(ioctl(session, RETRIEVE_FD, &ram) == 0, 70, "RETRIEVE_FD of memory");
	vmm.guest = mmap(NULL, RAM, PROT_READ | PROT_WRITE, MAP_SHARED, ram.fd, 0);
	check(vmm.guest != MAP_FAILED, 71, "mmap of memory");
	before = vmm.guest->total;
	check(before == 3 * sum_of(vmm.guest), 72, "the memory");
	refused(open_device(), EBUSY, 73, "open of a device that waits to be retrieved");
	refused(ioctl(session, FINISH, &finish), EBUSY, 74, "FINISH before the device is retrieved");
	check(ioctl(session, RETRIEVE_FD, &device) == 0, 75, "RETRIEVE_FD of the device");
	vmm.device = device.fd;
	refused(ioctl(session, FINISH, &finish), EBUSY, 76, "FINISH before the device is bound");
	set_up(&vmm);
	now = look(&vmm);
	check(now.status == 0 && now.count == 0 && now.value == 0 && now.scratch == 0, 77, "the device was not reset");
	memset(vmm.guest->data, 5, sizeof(vmm.guest->data));
	compute(&vmm, before);
	check(vmm.guest->total == before + sum_of(vmm.guest), 78, "the sum after the update");
	refused(open_device(), EBUSY, 79, "open of a device that is not finished");
	check(ioctl(session, FINISH, &finish) == 0, 80, "FINISH");
	other = open_device();
	check(other >= 0, 81, "open of the device after FINISH");
	compute(&vmm, vmm.guest->total);
	check(vmm.guest->total == before + 2 * sum_of(vmm.guest), 82, "the sum after FINISH");
	check(write(luod, "f", 1) == 1, 83, "luod");
}

/* luod's side of a Unix socket: the session goes over it. */
static void send_fd(int socket, int fd)
{
	char word = 's', room[CMSG_SPACE(sizeof(fd))] = "";
	struct iovec content = { .iov_base = &word, .iov_len = 1 };
	struct msghdr message = {
		.msg_iov = &content, .msg_iovlen = 1, .msg_control = room, .msg_controllen = sizeof(room),
	};
	struct cmsghdr *header = CMSG_FIRSTHDR(&message);

	header->cmsg_level = SOL_SOCKET;
	header->cmsg_type = SCM_RIGHTS;
	header->cmsg_len = CMSG_LEN(sizeof(fd));
	memcpy(CMSG_DATA(header), &fd, sizeof(fd));
	check(sendmsg(socket, &message, 0) == 1, 90, "sendmsg");
}

static int receive_fd(int socket)
{
	char word, room[CMSG_SPACE(sizeof(int))];
	struct iovec content = { .iov_base = &word, .iov_len = 1 };
	struct msghdr message = {
		.msg_iov = &content, .msg_iovlen = 1, .msg_control = room, .msg_controllen = sizeof(room),
	};
	int fd;

	check(recvmsg(socket, &message, MSG_CMSG_CLOEXEC) == 1 && CMSG_FIRSTHDR(&message), 91, "recvmsg");
	memcpy(&fd, CMSG_DATA(CMSG_FIRSTHDR(&message)), sizeof(fd));
	return fd;
}

static int jump(void)
{
	return syscall(SYS_reboot, LINUX_REBOOT_MAGIC1, LINUX_REBOOT_MAGIC2, LINUX_REBOOT_CMD_KEXEC, NULL);
}

static void expect(int vmm, char wanted, int step)
{
	char word = 0;

	check(read(vmm, &word, 1) == 1 && word == wanted, step, "the VMM");
}

int main(void)
{
	const char *boot = getenv("LUOEMU_BOOT"), *line = "liveupdate=on kho=on";
	struct session session = { .size = sizeof(session), .name = "vm" };
	int sockets[2], status, first;

	check(boot != NULL, 1, "LUOEMU_BOOT");
	first = strcmp(boot, "1") == 0;
	bind_driver(); /* before anybody opens /dev/liveupdate, and in every boot */
	int liveupdate = open("/dev/liveupdate", O_RDWR | O_CLOEXEC);
	check(liveupdate >= 0, 2, "/dev/liveupdate");
	check(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sockets) == 0, 3, "socketpair");
	pid_t vmm = fork();
	if (vmm == 0) {
		close(liveupdate);
		close(sockets[0]);
		int received = receive_fd(sockets[1]);
		if (first)
			run(sockets[1], received);
		else
			run_again(sockets[1], received);
		_exit(0);
	}
	close(sockets[1]);
	check(ioctl(liveupdate, first ? CREATE_SESSION : RETRIEVE_SESSION, &session) == 0, 4, "the session");
	send_fd(sockets[0], session.fd);

	if (first) {
		int kernel = open(getenv("LUOEMU_KERNEL"), O_RDONLY | O_CLOEXEC);
		check(syscall(SYS_kexec_file_load, kernel, -1, strlen(line) + 1, line, 4 /* no initramfs */) == 0, 5, "load");
		expect(sockets[0], 'i', 6);
		refused(jump(), EINVAL, 7, "a jump with interrupts on");
		check(write(sockets[0], "b", 1) == 1, 8, "the VMM");
		expect(sockets[0], 'q', 9);
	} else {
		expect(sockets[0], 'f', 9);
	}
	check(waitpid(vmm, &status, 0) == vmm && status == 0, 9, "the VMM's end");
	if (first) {
		jump(); /* the VMM is gone, and the session holds what it preserved */
		check(0, 9, "reboot");
	}
	puts("carried");
	return 0;
}
