// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
/*
 * A VMM reduced to what a live update asks of it, with all ways out. Its "guest" counts in its memory.
 *
 *	vmm start NAME		a new guest; then, on standard input:
 *		suspend		stop the guest and put it into the session: the kernel may be replaced
 *		continue	the kernel is not replaced after all: the guest goes on
 *	vmm resume NAME		in the new kernel
 *
 * cc -O2 -Wall -o vmm vmm.c, with the headers of a kernel that has <linux/liveupdate.h>.
 * luo/liveupdate/examples/vmm.rs is the same in Rust; each goes on with what the other one suspended.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <linux/liveupdate.h>

/* The VMM chooses tokens, and must know them in the next kernel. */
#define TOKEN_MEMORY	1
#define TOKEN_STATE	2

#define MEMORY_SIZE	(16UL << 20)
#define MEMORY_PAGE	4096UL
#define MEMORY_PAGES	(MEMORY_SIZE / MEMORY_PAGE)

#ifndef MFD_NOEXEC_SEAL
#define MFD_NOEXEC_SEAL	0x0008U
#endif

/* All that is not in the guest's memory: this is what a VMM knows of vCPUs and devices. */
struct state {
	char magic[8];
	uint64_t counter;
};

static const char magic[8] = { 'v', 'm', 'm', '-', 'd', 'e', 'm', 'o' };

struct guest {
	int memory_fd;
	char *memory;
	uint64_t counter;
};

static uint64_t *word(struct guest *guest, uint64_t counter)
{
	return (uint64_t *)(guest->memory + counter % MEMORY_PAGES * MEMORY_PAGE);
}

static int map(struct guest *guest)
{
	guest->memory = mmap(NULL, MEMORY_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, guest->memory_fd, 0);
	return guest->memory == MAP_FAILED ? -errno : 0;
}

static int guest_new(struct guest *guest)
{
	guest->memory_fd = memfd_create("guest", MFD_CLOEXEC | MFD_NOEXEC_SEAL);
	if (guest->memory_fd < 0 || ftruncate(guest->memory_fd, MEMORY_SIZE))
		return -errno;
	return map(guest);
}

/* What a guest does all day. */
static void guest_run(struct guest *guest)
{
	guest->counter++;
	*word(guest, guest->counter) = guest->counter;
}

static int guest_save(const struct guest *guest)
{
	struct state state = { .counter = guest->counter };
	int fd = memfd_create("state", MFD_CLOEXEC | MFD_NOEXEC_SEAL);

	memcpy(state.magic, magic, sizeof(magic));
	if (fd < 0)
		return -errno;
	if (pwrite(fd, &state, sizeof(state), 0) != sizeof(state)) {
		close(fd);
		return -EIO;
	}
	return fd;
}

/* The files may come from another version of this program: they are checked before they are used. */
static int guest_restore(struct guest *guest, int state_fd)
{
	struct state state;
	struct stat stat;
	uint64_t back;
	int err;

	if (pread(state_fd, &state, sizeof(state), 0) != sizeof(state) || memcmp(state.magic, magic, sizeof(magic))) {
		fprintf(stderr, "the state is not of this VMM\n");
		return -EINVAL;
	}
	if (fstat(guest->memory_fd, &stat) || (uint64_t)stat.st_size != MEMORY_SIZE) {
		fprintf(stderr, "the memory has another size\n");
		return -EINVAL;
	}
	err = map(guest);
	if (err)
		return err;
	guest->counter = state.counter;
	for (back = 0; back < state.counter && back < MEMORY_PAGES; back++) {
		if (*word(guest, state.counter - back) != state.counter - back) {
			fprintf(stderr, "the guest finds what it did not write\n");
			return -EIO;
		}
	}
	return 0;
}

/* Only one process of the host can have the device open, and each needs it for a moment. */
static int open_device(void)
{
	int tries, fd;

	for (tries = 0; tries < 500; tries++) {
		fd = open("/dev/liveupdate", O_RDWR | O_CLOEXEC);
		if (fd >= 0 || errno != EBUSY)
			return fd < 0 ? -errno : fd;
		usleep(10000);
	}
	return -EBUSY;
}

static int set_name(__u8 *to, const char *name)
{
	if (!*name || strlen(name) >= LIVEUPDATE_SESSION_NAME_LENGTH)
		return -EINVAL;
	strcpy((char *)to, name);
	return 0;
}

/* A session to put files into; closing it before the jump takes them out again. */
static int create_session(const char *name)
{
	struct liveupdate_ioctl_create_session arg = { .size = sizeof(arg), .fd = -1 };
	int device, err = set_name(arg.name, name);

	if (err)
		return err;
	device = open_device();
	if (device < 0)
		return device;
	if (ioctl(device, LIVEUPDATE_IOCTL_CREATE_SESSION, &arg))
		err = -errno;
	close(device);
	return err ? err : arg.fd;
}

/* A session of the previous kernel; closing it finishes it. */
static int retrieve_session(const char *name)
{
	struct liveupdate_ioctl_retrieve_session arg = { .size = sizeof(arg), .fd = -1 };
	int device, err = set_name(arg.name, name);

	if (err)
		return err;
	device = open_device();
	if (device < 0)
		return device;
	if (ioctl(device, LIVEUPDATE_IOCTL_RETRIEVE_SESSION, &arg))
		err = -errno;
	close(device);
	return err ? err : arg.fd;
}

static int preserve(int session, int fd, uint64_t token)
{
	struct liveupdate_session_preserve_fd arg = { .size = sizeof(arg), .fd = fd, .token = token };

	return ioctl(session, LIVEUPDATE_SESSION_PRESERVE_FD, &arg) ? -errno : 0;
}

/* If no handler is loaded for the file, nothing is lost: it is asked for again. Every other error is final. */
static int retrieve(int session, uint64_t token)
{
	struct liveupdate_session_retrieve_fd arg = { .size = sizeof(arg), .fd = -1, .token = token };
	int tries;

	for (tries = 0; tries < 5; tries++) {
		if (!ioctl(session, LIVEUPDATE_SESSION_RETRIEVE_FD, &arg))
			return arg.fd;
		if (errno != ENODEV)
			return -errno;
		fprintf(stderr, "no handler for token %llu; load its module, this tries again\n",
			(unsigned long long)token);
		sleep(1);
	}
	return -ENODEV;
}

/*
 * Puts the guest, which has been stopped, into a session. If that fails, the session is closed, which takes
 * everything back: the guest is as it was.
 */
static int suspend(const struct guest *guest, const char *name)
{
	int err, state, session = create_session(name);

	if (session < 0)
		return session;
	/*
	 * A VMM whose memory is large does this while its guest still runs: the file is fixed in size from here on,
	 * and still written.
	 */
	err = preserve(session, guest->memory_fd, TOKEN_MEMORY);
	if (err)
		goto close;
	state = guest_save(guest);
	if (state < 0) {
		err = state;
		goto close;
	}
	err = preserve(session, state, TOKEN_STATE);
	close(state);
	if (!err)
		return session;
close:
	close(session);
	return err;
}

static int resume(struct guest *guest, const char *name)
{
	struct liveupdate_session_finish finish = { .size = sizeof(finish) };
	int state, err, session = retrieve_session(name);

	if (session == -ENOENT)
		fprintf(stderr, "there is no guest to resume; `start` makes a new one\n");
	if (session < 0)
		return session;
	/*
	 * If something fails from here on, this process ends, which closes the session and so finishes it: the memory
	 * is freed, and what was in it is lost. A VMM that has another chance keeps the session instead.
	 */
	guest->memory_fd = retrieve(session, TOKEN_MEMORY);
	if (guest->memory_fd < 0)
		return guest->memory_fd;
	state = retrieve(session, TOKEN_STATE);
	if (state < 0)
		return state;
	err = guest_restore(guest, state);
	if (err)
		return err;
	close(state);
	/* The files belong to this process now. */
	if (ioctl(session, LIVEUPDATE_SESSION_FINISH, &finish))
		return -errno;
	close(session);
	printf("resumed at %llu\n", (unsigned long long)guest->counter);
	return 0;
}

/* The guest runs until there is a word on standard input, and on if there is no standard input any more. */
static void run_until_word(struct guest *guest, char *line, int size)
{
	struct pollfd input = { .fd = STDIN_FILENO, .events = POLLIN };

	for (;;) {
		guest_run(guest);
		if (poll(&input, 1, 1) != 1)
			continue;
		if (fgets(line, size, stdin))
			return;
		input.fd = -1;
	}
}

static void serve(struct guest *guest, const char *name)
{
	char line[32];
	int session;

	/* poll() must not miss a line that has been read ahead. */
	setvbuf(stdin, NULL, _IONBF, 0);
	for (;;) {
		run_until_word(guest, line, sizeof(line));
		if (strcmp(line, "suspend\n")) {
			fprintf(stderr, "no such word: %s", line);
			continue;
		}
		session = suspend(guest, name);
		if (session < 0) {
			fprintf(stderr, "not suspended, the guest goes on: %s\n", strerror(-session));
			continue;
		}
		printf("suspended at %llu\n", (unsigned long long)guest->counter);
		/* Nothing may change the guest from here to the jump. */
		while (!fgets(line, sizeof(line), stdin) || strcmp(line, "continue\n"))
			if (feof(stdin))
				pause();
		close(session);
		printf("continued at %llu\n", (unsigned long long)guest->counter);
	}
}

int main(int argc, char **argv)
{
	struct guest guest = { .memory_fd = -1 };
	int err = -EINVAL;

	setvbuf(stdout, NULL, _IOLBF, 0);
	if (argc == 3 && !strcmp(argv[1], "start"))
		err = guest_new(&guest);
	else if (argc == 3 && !strcmp(argv[1], "resume"))
		err = resume(&guest, argv[2]);
	else
		fprintf(stderr, "usage: vmm start|resume NAME\n");
	if (err) {
		fprintf(stderr, "vmm: %s\n", strerror(-err));
		return 1;
	}
	serve(&guest, argv[2]);
	return 0;
}
