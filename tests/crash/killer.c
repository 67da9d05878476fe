/*
 * Kills processes when one of them enters its Nth call that changes state:
 *
 *     killer WHO N REPORT VICTIMS -- COMMAND...
 *
 * It becomes COMMAND, and is traced by a process of its own. WHO is part of a command line (words, with blanks between):
 * the first process that becomes such a program, COMMAND or one below it, is the one whose calls are counted, those of
 * all its threads together. A fork becomes serve when it takes that name. When it enters number N, which is not made if it dies, REPORT is written and SIGKILL is sent
 * to every process whose command line has a part that VICTIMS names (separated by commas), all at once; then the tracer
 * goes. Where there is no Nth call, nobody is hurt and REPORT is not written.
 *
 * Not strace -e inject: that counts each thread and each kind of call by itself, so threads hide one another's calls.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define LUO_IOCTLS 0xBA
#define SERVE "luod-serve"
#define OPTIONS (PTRACE_O_TRACESYSGOOD | PTRACE_O_TRACEFORK | PTRACE_O_TRACEVFORK | PTRACE_O_TRACECLONE | PTRACE_O_TRACEEXEC)

struct call {
	long number;
	const char *name;
};

static const struct call changing[] = {
#define CALL(name) { SYS_##name, #name }
	CALL(ioctl), CALL(sendmsg), CALL(sendto), CALL(write), CALL(writev), CALL(pwrite64), CALL(ftruncate),
	CALL(fallocate), CALL(renameat2), CALL(unlinkat), CALL(mkdirat), CALL(bind), CALL(listen), CALL(fchmodat),
	CALL(connect), CALL(kexec_load), CALL(reboot), CALL(fsync), CALL(memfd_create),
#ifdef SYS_kexec_file_load
	CALL(kexec_file_load),
#endif
#ifdef SYS_rename
	CALL(rename), CALL(unlink), CALL(mkdir), CALL(chmod), CALL(rmdir),
#endif
#ifdef SYS_renameat
	CALL(renameat),
#endif
};

static void fail(const char *what)
{
	perror(what);
	exit(125);
}

/*
 * The command line of a process, blanks between its words; "" when there is none. That of serve is its name, since it is
 * a fork of keep, and has the same command line.
 */
static void command_line(pid_t pid, char *line, size_t size)
{
	char path[64];
	ssize_t got = 0;

	snprintf(path, sizeof(path), "/proc/%d/comm", pid);
	int name = open(path, O_RDONLY | O_CLOEXEC);
	if (name >= 0) {
		got = read(name, line, size - 1);
		close(name);
	}
	if (got == sizeof(SERVE) && !strncmp(line, SERVE, sizeof(SERVE) - 1)) {
		line[got - 1] = 0;
		return;
	}
	got = 0;
	snprintf(path, sizeof(path), "/proc/%d/cmdline", pid);
	int file = open(path, O_RDONLY | O_CLOEXEC);
	if (file >= 0) {
		got = read(file, line, size - 1);
		close(file);
	}
	got = got < 0 ? 0 : got;
	for (ssize_t i = 0; i < got; i++)
		if (!line[i])
			line[i] = ' ';
	line[got] = 0;
}

static pid_t group_of(pid_t thread)
{
	char path[64], line[256];
	int group = 0;

	snprintf(path, sizeof(path), "/proc/%d/status", thread);
	FILE *file = fopen(path, "re");
	if (!file)
		return 0;
	while (fgets(line, sizeof(line), file))
		if (sscanf(line, "Tgid: %d", &group) == 1)
			break;
	fclose(file);
	return group;
}

/* The name of a call that changes state, NULL for any other. */
static const char *changes(const struct __ptrace_syscall_info *info)
{
	for (size_t i = 0; i < sizeof(changing) / sizeof(*changing); i++) {
		if ((long)info->entry.nr != changing[i].number)
			continue;
		if (changing[i].number == SYS_ioctl && ((info->entry.args[1] >> 8) & 0xff) != LUO_IOCTLS)
			return NULL;
		/* What is written to the log is no state. */
		if (changing[i].number == SYS_write && info->entry.args[0] == 2)
			return NULL;
		return changing[i].name;
	}
	return NULL;
}

static void report(const char *path, pid_t thread, long number, const char *call, const struct __ptrace_syscall_info *info)
{
	char line[512], link[64], file[256];

	snprintf(link, sizeof(link), "/proc/%d/fd/%d", thread, (int)info->entry.args[0]);
	ssize_t got = readlink(link, file, sizeof(file) - 1);
	file[got < 0 ? 0 : got] = 0;
	snprintf(line, sizeof(line), "%ld: %s(%#llx %s, %#llx)\n", number, call, (unsigned long long)info->entry.args[0],
		 file, (unsigned long long)info->entry.args[1]);
	int out = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
	if (out < 0 || write(out, line, strlen(line)) < 0)
		fail(path);
	close(out);
}

static int is_named(const char *line, const char *victims)
{
	char names[512];

	snprintf(names, sizeof(names), "%s", victims);
	for (char *name = strtok(names, ","); name; name = strtok(NULL, ","))
		if (strstr(line, name))
			return 1;
	return 0;
}

static void kill_all(const char *victims)
{
	char line[4096];
	DIR *processes = opendir("/proc");

	if (!processes)
		fail("/proc");
	for (struct dirent *entry; (entry = readdir(processes));) {
		pid_t pid = atoi(entry->d_name);
		if (pid <= 1)
			continue;
		command_line(pid, line, sizeof(line));
		/* Wrappers have the command line of what they wrap as a part of theirs. */
		if (is_named(line, victims) && !strstr(line, "killer") && !strstr(line, "sh -c"))
			kill(pid, SIGKILL);
	}
	closedir(processes);
}

static void trace(const char *who, long n, const char *path, const char *victims)
{
	pid_t target = 0;
	long count = 0;
	int by_name = !strcmp(who, SERVE);

	for (;;) {
		int status, deliver = 0;
		pid_t thread = waitpid(-1, &status, __WALL);
		if (thread < 0) {
			if (errno == EINTR)
				continue;
			exit(0); /* nobody is left */
		}
		if (!WIFSTOPPED(status))
			continue;
		int signal = WSTOPSIG(status), event = status >> 16;
		pid_t group = group_of(thread);
		if (!target && (event == PTRACE_EVENT_EXEC || (by_name && signal == (SIGTRAP | 0x80)))) {
			char line[4096];
			command_line(group, line, sizeof(line));
			if (by_name ? !strcmp(line, SERVE) : !!strstr(line, who))
				target = group;
		} else if (signal == (SIGTRAP | 0x80)) {
			struct __ptrace_syscall_info info;
			const char *call = NULL;
			if (ptrace(PTRACE_GET_SYSCALL_INFO, thread, sizeof(info), &info) > 0 &&
			    info.op == PTRACE_SYSCALL_INFO_ENTRY && group == target)
				call = changes(&info);
			if (call && ++count == n) {
				report(path, thread, n, call, &info);
				kill_all(victims);
				exit(0);
			}
		} else if (event == PTRACE_EVENT_STOP && signal != SIGTRAP) {
			ptrace(PTRACE_LISTEN, thread, 0, 0);
			continue;
		} else if (!event) {
			deliver = signal;
		}
		int counted = group && group == target, awaited = by_name && !target;
		ptrace(counted || awaited ? PTRACE_SYSCALL : PTRACE_CONT, thread, 0, deliver);
	}
}

int main(int argc, char **argv)
{
	int ready[2];
	char byte;

	if (argc < 7 || strcmp(argv[5], "--")) {
		fprintf(stderr, "killer WHO N REPORT VICTIMS -- COMMAND...\n");
		return 2;
	}
	pid_t self = getpid();
	if (pipe2(ready, O_CLOEXEC))
		fail("pipe2");
	pid_t child = fork();
	if (child < 0)
		fail("fork");
	if (!child) {
		if (fork())
			_exit(0);
		setsid();
		close(ready[0]);
		if (ptrace(PTRACE_SEIZE, self, 0, OPTIONS))
			fail("PTRACE_SEIZE");
		if (write(ready[1], "r", 1) != 1)
			fail("write");
		close(ready[1]);
		trace(argv[1], atol(argv[2]), argv[3], argv[4]);
	}
	close(ready[1]);
	waitpid(child, NULL, 0);
	if (read(ready[0], &byte, 1) != 1) {
		fprintf(stderr, "killer: not traced\n");
		return 125;
	}
	execvp(argv[6], argv + 6);
	fail(argv[6]);
}
