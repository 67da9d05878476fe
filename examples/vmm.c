/*
 * A toy VMM that lives through kernel updates, speaking to luod by hand: no library but libc.
 *
 *     cc -o vmm vmm.c && ./vmm NAME
 *
 * Its guest counts in its memory, as that of vmm.py does. luod's side is Varlink on a unix socket: a call is a JSON
 * object and a NUL, so is its answer, and an fd comes with the first byte of a message (SCM_RIGHTS). The VMM itself makes
 * the ioctls for a session's files, on the session's fd. docs/updates.md describes the protocol.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#define LUOD_SOCKET "/run/luod/luod.sock"
#define MESSAGE_MAX (64 * 1024)
#define RAM_SIZE (1 << 20)
#define TOKEN 1
#define ERROR_MAX 128

/* <linux/liveupdate.h>, for hosts whose headers lack it. */
struct session_file { uint32_t size; int32_t fd; uint64_t token; };
struct session_finish { uint32_t size; uint32_t reserved; };
#define SESSION_PRESERVE_FD _IO(0xBA, 0x40)
#define SESSION_RETRIEVE_FD _IO(0xBA, 0x41)
#define SESSION_FINISH _IO(0xBA, 0x42)

static const char *name;
static const struct timespec moment = { .tv_nsec = 100 * 1000 * 1000 };

static void say(const char *what, uint64_t count, const char *why)
{
	printf("%s: %s at %" PRIu64 "%s%s\n", name, what, count, *why ? ": " : "", why);
	fflush(stdout);
}

static void fail(const char *what)
{
	fprintf(stderr, "%s: %s: %s\n", name, what, strerror(errno));
	exit(1);
}

/* ---- JSON, the part that answers need ---- */

static const char *skip_space(const char *at)
{
	return at + strspn(at, " \t\r\n");
}

/* Returns the end of the value that begins at `at`. */
static const char *skip_value(const char *at)
{
	int depth = 0;

	do {
		if (*at == '"') {
			for (at++; *at && *at != '"'; at++)
				if (*at == '\\' && at[1])
					at++;
			at += *at == '"';
		} else if (strchr("{[", *at) && *at) {
			depth++, at++;
		} else if (strchr("}]", *at) && *at) {
			depth--, at++;
		} else if (depth) {
			at += *at != 0;
		} else {
			at += strcspn(at, ",}] \t\r\n");
		}
	} while (depth && *at);
	return at;
}

/* Returns the value of the member `key` of the object that begins at `object`, or NULL. */
static const char *member(const char *object, const char *key)
{
	const char *at = object ? skip_space(object) : "";
	size_t length = strlen(key);

	if (*at != '{')
		return NULL;
	for (at = skip_space(at + 1); *at == '"'; at = skip_space(at + (*at == ','))) {
		const char *found = at + 1, *end = skip_value(at);

		at = skip_space(skip_space(end) + 1); /* after the colon */
		if ((size_t)(end - found - 1) == length && !memcmp(found, key, length))
			return at;
		at = skip_space(skip_value(at));
	}
	return NULL;
}

/* Returns a string without its quotes, escapes as they are, cut to `size`; "" for other values. */
static const char *text(const char *value, char *out, size_t size)
{
	size_t length = 0;

	if (value && *value == '"')
		length = (size_t)(skip_value(value) - value) - 2;
	if (length >= size)
		length = size - 1;
	memcpy(out, length ? value + 1 : "", length);
	out[length] = 0;
	return out;
}

/* Returns the digits of a number; "0" for other values. */
static void number(const char *value, char *out, size_t size)
{
	snprintf(out, size, "%lld", value ? strtoll(value, NULL, 10) : 0LL);
}

static int is(const char *value, const char *word)
{
	char found[64];

	return value && *value == '"' && !strcmp(text(value, found, sizeof(found)), word);
}

/* ---- Varlink ---- */

struct wire {
	int socket;
	size_t used, taken;
	char data[MESSAGE_MAX];
};

static struct wire call_wire = { .socket = -1 }, follow_wire = { .socket = -1 };

static void hang_up(struct wire *wire)
{
	if (wire->socket >= 0)
		close(wire->socket);
	wire->socket = -1;
	wire->used = wire->taken = 0;
}

static int dial(struct wire *wire)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX, .sun_path = LUOD_SOCKET };

	hang_up(wire);
	wire->socket = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (wire->socket >= 0 && !connect(wire->socket, (struct sockaddr *)&address, sizeof(address)))
		return 0;
	hang_up(wire);
	return -1;
}

static int send_call(struct wire *wire, const char *message)
{
	size_t length = strlen(message) + 1; /* the NUL ends it */

	while (length) {
		ssize_t sent = send(wire->socket, message, length, MSG_NOSIGNAL);

		if (sent < 0 && errno != EINTR)
			return -1;
		if (sent > 0)
			message += sent, length -= (size_t)sent;
	}
	return 0;
}

/* Returns the next message; NULL at the end of the connection. Stores its fd in `fd`, which may be NULL. */
static const char *receive(struct wire *wire, int *fd)
{
	for (;;) {
		char *begin = wire->data + wire->taken, *end = memchr(begin, 0, wire->used - wire->taken);
		union { char room[CMSG_SPACE(sizeof(int))]; struct cmsghdr align; } control;
		struct iovec space;
		struct msghdr header = { .msg_iov = &space, .msg_iovlen = 1 };
		struct cmsghdr *passed;
		ssize_t got;

		if (end) {
			wire->taken = (size_t)(end - wire->data) + 1;
			return begin;
		}
		memmove(wire->data, begin, wire->used -= wire->taken);
		wire->taken = 0;
		if (wire->used == sizeof(wire->data))
			return NULL;
		space = (struct iovec){ wire->data + wire->used, sizeof(wire->data) - wire->used };
		header.msg_control = control.room;
		header.msg_controllen = sizeof(control.room);
		got = recvmsg(wire->socket, &header, MSG_CMSG_CLOEXEC);
		if (got < 0 && errno == EINTR)
			continue;
		if (got <= 0)
			return NULL;
		wire->used += (size_t)got;
		passed = CMSG_FIRSTHDR(&header);
		if (passed && passed->cmsg_level == SOL_SOCKET && passed->cmsg_type == SCM_RIGHTS) {
			int number;

			memcpy(&number, CMSG_DATA(passed), sizeof(number));
			if (fd)
				*fd = number;
			else
				close(number);
		}
	}
}

/* Makes a call over a connection of its own. Returns the answer, valid until the next call; NULL: luod is gone, or it
 * answered with an error. `error` (ERROR_MAX bytes) has its name then, without that of the interface. */
static const char *call(const char *method, const char *parameters, int *fd, char *error)
{
	char message[1024], full[ERROR_MAX];
	const char *answer = NULL;

	*error = 0;
	snprintf(message, sizeof(message), "{\"method\":\"io.luod.%s\",\"parameters\":%s}", method, parameters);
	if (!dial(&call_wire) && !send_call(&call_wire, message))
		answer = receive(&call_wire, fd);
	if (answer && member(answer, "error")) {
		text(member(answer, "error"), full, sizeof(full));
		snprintf(error, ERROR_MAX, "%s", strrchr(full, '.') ? strrchr(full, '.') + 1 : full);
		answer = NULL;
	}
	return answer;
}

/* Returns the fd of the session `of`, by Create or Retrieve; -1 with the name of the error in `error`. */
static int session(const char *method, const char *of, char *error)
{
	char parameters[128];
	int fd = -1;

	snprintf(parameters, sizeof(parameters), "{\"name\":\"%s\"}", of);
	return call(method, parameters, &fd, error) ? fd : -1;
}

static int release(const char *of, const char *direction, const char *outcome)
{
	char parameters[256], error[ERROR_MAX];

	snprintf(parameters, sizeof(parameters), "{\"name\":\"%s\",\"direction\":\"%s\",\"outcome\":\"%s\"}", of,
		 direction, outcome);
	return call("Sessions.Release", parameters, NULL, error) ? 0 : -1;
}

/* ---- the guest: its memory, and its state, which is saved while it is frozen ---- */

static int ram = -1;
static volatile uint64_t *count;

/* Returns a memfd, or -1. */
static int new_memory(const char *what, size_t size)
{
	/* Without MFD_EXEC `vm.memfd_noexec=1` adds a seal, and the memory is read-only after the kexec. */
	int fd = memfd_create(what, MFD_CLOEXEC | MFD_ALLOW_SEALING | 0x10u);

	if (fd < 0 && errno == EINVAL) /* a kernel without this flag does not seal either */
		fd = memfd_create(what, MFD_CLOEXEC | MFD_ALLOW_SEALING);
	if (fd >= 0 && ftruncate(fd, (off_t)size)) {
		close(fd);
		fd = -1;
	}
	return fd;
}

static int preserve(int in, int fd)
{
	struct session_file file = { sizeof(file), fd, TOKEN };

	return ioctl(in, SESSION_PRESERVE_FD, &file);
}

static int retrieve(int from)
{
	struct session_file file = { sizeof(file), -1, TOKEN };

	if (ioctl(from, SESSION_RETRIEVE_FD, &file))
		fail("RETRIEVE_FD");
	return file.fd;
}

static void finish(int fd, const char *of)
{
	struct session_finish done = { sizeof(done), 0 };

	if (ioctl(fd, SESSION_FINISH, &done))
		fail("FINISH");
	release(of, "incoming", "finished");
	close(fd);
}

/* Ends this process with the reason: the name of luod's error, or that there is no luod. */
static void refused(const char *what, const char *error)
{
	fprintf(stderr, "%s: %s: %s\n", name, what, *error ? error : "no answer on " LUOD_SOCKET ", where luod listens");
	exit(1);
}

/* Records that the guest resumes. luod may record it and die before its answer: it takes the call again from the process
 * that retrieved the sessions. Until there is an answer the guest stays paused. */
static void resuming(void)
{
	char parameters[128], error[ERROR_MAX];

	snprintf(parameters, sizeof(parameters), "{\"names\":[\"%s\"]}", name);
	while (!call("Updates.Resuming", parameters, NULL, error)) {
		if (*error)
			refused("may not resume", error);
		nanosleep(&moment, NULL);
	}
}

/*
 * Retrieves the sessions NAME and NAME#GENERATION of the previous kernel, if they exist, and resumes from them. Returns
 * -1 for a cold start. Ends this process if luod cannot tell now: the guest may still wait in the kernel.
 */
static int come_back(void)
{
	char error[ERROR_MAX], frozen_name[64] = "", parameters[128];
	size_t length = strlen(name);
	const char *list;
	uint64_t state;
	int running, frozen, file;

	snprintf(parameters, sizeof(parameters), "{\"workload\":\"%s\"}", name);
	list = member(member(call("Sessions.List", parameters, NULL, error), "parameters"), "sessions");
	for (list = list ? skip_space(list + 1) : ""; *list == '{'; list = skip_space(list + (*list == ','))) {
		char found[64];

		text(member(list, "name"), found, sizeof(found));
		if (is(member(list, "direction"), "incoming") && !strncmp(found, name, length) && found[length] == '#')
			strcpy(frozen_name, found);
		list = skip_space(skip_value(list));
	}
	running = session("Sessions.Retrieve", name, error);
	if (running < 0) {
		/* Torn: not the state at the kexec. Resumed: changed since. */
		if (!strcmp(error, "Torn") || !strcmp(error, "Resumed")) {
			release(name, "incoming", "given_up");
			if (*frozen_name)
				release(frozen_name, "incoming", "given_up");
		} else if (strcmp(error, "NoSuchSession")) {
			refused("luod does not return its session", error);
		}
		return -1;
	}
	if (!*frozen_name) {
		fprintf(stderr, "%s: there is no session with the state of its guest\n", name);
		exit(1);
	}
	frozen = session("Sessions.Retrieve", frozen_name, error);
	if (frozen < 0)
		refused("luod does not return the state of its guest", error);
	ram = retrieve(running);
	count = mmap(NULL, RAM_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, ram, 0);
	file = retrieve(frozen);
	if (count == MAP_FAILED || pread(file, &state, sizeof(state), 0) != sizeof(state))
		fail("the guest's memory and state");
	close(file);
	if (state != *count) {
		fprintf(stderr, "%s: its memory and its state are not of the same moment\n", name);
		exit(1);
	}
	resuming(); /* before its first instruction: it cannot be resumed a second time */
	say("resumes", *count, "");
	++*count;
	finish(frozen, frozen_name);
	finish(running, name);
	return 0;
}

/* ---- its part in updates ---- */

#define RETRY_TURNS 1000 /* of a millisecond each, between two attempts to declare */

static char participant[64];
static int mine = -1; /* the session for the next update */
static int undeclared;

/* Creates the session for the next update, with the guest's memory. Returns -1 with the name of the error in `error`. */
static int prepare(char *error)
{
	close(mine); /* its memory can be preserved in another one then */
	mine = session("Sessions.Create", name, error);
	if (mine >= 0 && preserve(mine, ram)) {
		snprintf(error, ERROR_MAX, "PRESERVE_FD: %s", strerror(errno));
		close(mine);
		mine = -1;
	}
	return mine;
}

/* Declares the session. An update that this participant has no part in may be running: the caller tries again then. A
 * luod that was started again without its state does not know the session. */
static void declare(void)
{
	char declared[512], error[ERROR_MAX];

	snprintf(declared, sizeof(declared),
		 "{\"participant\":\"%s\",\"sessions\":[{\"name\":\"%s\",\"files\":[{\"token\":%d,\"name\":\"ram\","
		 "\"kind\":\"memfd\",\"size\":%d,\"allocated\":%d,\"seals\":0,\"when\":\"preserved\"}]}]}",
		 participant, name, TOKEN, RAM_SIZE, RAM_SIZE);
	undeclared = !call("Updates.Declare", declared, NULL, error);
	if (undeclared && !strcmp(error, "NoSuchSession"))
		prepare(error);
}

/* Makes `follow_wire` the participant, and declares its session. Returns luod's state, "" while it is gone. */
static const char *follow(char *state, size_t size)
{
	char message[256];
	const char *answer;

	*state = 0;
	snprintf(message, sizeof(message),
		 "{\"method\":\"io.luod.Updates.Follow\",\"parameters\":{\"name\":\"%s\"},\"more\":true}", name);
	if (dial(&follow_wire) || send_call(&follow_wire, message) || !(answer = receive(&follow_wire, NULL)) ||
	    !is(member(member(answer, "parameters"), "event"), "following")) {
		hang_up(&follow_wire);
		return state;
	}
	text(member(member(answer, "parameters"), "participant"), participant, sizeof(participant));
	text(member(member(answer, "parameters"), "state"), state, size);
	declare();
	return state;
}

/* `generation` is the number of the event: a vote that comes late does not count for the next update. */
static void vote(const char *phase, const char *generation, const char *veto)
{
	char parameters[512], error[ERROR_MAX];

	snprintf(parameters, sizeof(parameters),
		 "{\"participant\":\"%s\",\"phase\":\"%s\",\"generation\":%s,\"vote\":\"%s\",\"reason\":\"%s\"}",
		 participant, phase, generation, *veto ? "veto" : "ready", veto);
	call("Updates.Vote", parameters, NULL, error); /* after a late vote comes `cancelled` */
}

/* Writes the paused guest's state to NAME#GENERATION, and votes. Returns the session's fd, or -1. A failure is a veto:
 * the guest goes on when `cancelled` comes. */
static int freeze(const char *generation)
{
	char frozen_name[80], error[ERROR_MAX];
	uint64_t now = *count;
	int frozen, file, ready;

	say("frozen", now, "");
	snprintf(frozen_name, sizeof(frozen_name), "%s#%s", name, generation);
	frozen = session("Sessions.Create", frozen_name, error);
	file = frozen < 0 ? -1 : new_memory("state", sizeof(now));
	ready = file >= 0 && pwrite(file, &now, sizeof(now), 0) == sizeof(now) && !preserve(frozen, file);
	close(file);
	vote("freezing", generation, ready ? "" : "its state cannot be preserved");
	return frozen;
}

static void take_part(void)
{
	enum { RUNNING, PAUSED, JUMPING } guest = RUNNING;
	char state[32], why[256], generation[24];
	int frozen = -1, turns = 0;

	while (!*follow(state, sizeof(state)))
		nanosleep(&moment, NULL);
	printf("%s: takes part\n", name);
	fflush(stdout);
	for (;;) {
		struct pollfd ready = { .fd = follow_wire.socket, .events = POLLIN };
		const char *event = NULL, *message;
		int over;

		if (guest == RUNNING)
			++*count;
		if (guest == RUNNING && undeclared && ++turns % RETRY_TURNS == 0)
			declare();
		if (follow_wire.used == follow_wire.taken && poll(&ready, 1, guest == RUNNING ? 1 : -1) == 0)
			continue;
		message = receive(&follow_wire, NULL);
		*why = 0;
		if (message) {
			event = member(member(message, "parameters"), "event");
			text(member(member(message, "parameters"), "reason"), why, sizeof(why));
			over = is(event, "cancelled") || is(event, "lost");
		} else {
			/* luod is gone. Before `jumping` the update is over. After it only luod knows. */
			while (!*follow(state, sizeof(state)))
				nanosleep(&moment, NULL);
			strcpy(why, "luod was started again");
			over = guest != JUMPING || strcmp(state, "jumping");
		}
		if (is(event, "preparing") || is(event, "freezing"))
			number(member(member(message, "parameters"), "generation"), generation, sizeof(generation));
		if (is(event, "preparing")) {
			vote("preparing", generation, ""); /* the memory is preserved already */
		} else if (is(event, "freezing")) {
			guest = PAUSED;
			frozen = freeze(generation);
		} else if (is(event, "jumping")) {
			guest = JUMPING;
		} else if (over && guest != RUNNING) {
			close(frozen); /* the frozen state is of no use any more */
			frozen = -1;
			say("goes on", *count, why);
			guest = RUNNING;
		}
	}
}

int main(int argc, char **argv)
{
	char error[ERROR_MAX];

	if (argc != 2 || strlen(argv[1]) > 40 || strcspn(argv[1], "\"\\") != strlen(argv[1])) {
		fprintf(stderr, "usage: vmm NAME\n");
		return 2;
	}
	name = argv[1];
	if (come_back()) {
		ram = new_memory("ram", RAM_SIZE);
		count = mmap(NULL, RAM_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, ram, 0);
		if (ram < 0 || count == MAP_FAILED)
			fail("the guest's memory");
	}
	release(name, "outgoing", "given_up"); /* of an earlier VMM process, which ended without an update */
	if (prepare(error) < 0)
		refused("there is no session for the next update", error);
	take_part();
}
