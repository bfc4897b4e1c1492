/* Where the program runs: namespaces, cgroup, user, and attempts to leave them. */
#ifndef PLACE_H
#define PLACE_H

#include <grp.h>
#include <linux/bpf.h>
#include <linux/sched.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "base.h"

/* enter goes to the network and the files of a process. */
static void enter(const char *pid)
{
	char path[64];
	int net, files;

	snprintf(path, sizeof(path), "/proc/%s/ns/net", pid);
	net = open(path, O_RDONLY | O_CLOEXEC);
	snprintf(path, sizeof(path), "/proc/%s/ns/mnt", pid);
	files = open(path, O_RDONLY | O_CLOEXEC);
	fail_unless(net >= 0 && files >= 0, path);
	fail_unless(!setns(net, CLONE_NEWNET) && !setns(files, CLONE_NEWNS), "setns");
	fail_unless(!chdir("/"), "chdir");
}

static void become(int id)
{
	fail_unless(!setgroups(0, NULL) && !setresgid(id, id, id) && !setresuid(id, id, id), "become");
	/* Who changes its ids cannot be traced until it executes something. */
	fail_unless(!prctl(PR_SET_DUMPABLE, 1), "dumpable");
}

static long join(const char *dir)
{
	char path[4096];

	snprintf(path, sizeof(path), "%s/cgroup.procs", dir);
	return write_file(path, "0");
}

/* clone_into starts a child in another cgroup; the child goes on with the rest. */
static long clone_into(const char *dir)
{
	struct clone_args a = { .flags = CLONE_INTO_CGROUP, .exit_signal = SIGCHLD, .cgroup = open(dir, O_RDONLY | O_DIRECTORY) };
	int status;
	long child;

	if ((int)a.cgroup < 0)
		return -1;
	child = syscall(SYS_clone3, &a, sizeof(a));
	if (child <= 0)
		return child;
	waitpid(child, &status, 0);
	exit(WEXITSTATUS(status));
}

static void go_on_in_child(void)
{
	int status;
	pid_t child = fork();

	if (!child)
		return;
	waitpid(child, &status, 0);
	exit(WEXITSTATUS(status));
}

static long loopback_up(void)
{
	struct ifreq r = { .ifr_name = "lo", .ifr_flags = IFF_UP };
	int s = socket(AF_INET, SOCK_DGRAM, 0);
	long err = ioctl(s, SIOCSIFFLAGS, &r);

	close(s);
	return err;
}

/* unshare_as makes namespaces in which the program is root. */
static long unshare_as(int flags)
{
	char map[64];
	int uid = getuid(), gid = getgid();

	if (unshare(CLONE_NEWUSER | flags))
		return -1;
	write_file("/proc/self/setgroups", "deny");
	snprintf(map, sizeof(map), "0 %d 1", uid);
	write_file("/proc/self/uid_map", map);
	snprintf(map, sizeof(map), "0 %d 1", gid);
	write_file("/proc/self/gid_map", map);
	return flags & CLONE_NEWNET ? loopback_up() : 0;
}

/* attach_program loads a program that lets everything out, and attaches it to a cgroup. */
static long attach_program(const char *dir)
{
	struct bpf_insn let[] = { { .code = BPF_ALU64 | BPF_MOV | BPF_K, .imm = 1 }, { .code = BPF_JMP | BPF_EXIT } };
	union bpf_attr load = { .prog_type = BPF_PROG_TYPE_CGROUP_SKB, .insns = (unsigned long)let, .insn_cnt = 2,
				.license = (unsigned long)"GPL", .expected_attach_type = BPF_CGROUP_INET_EGRESS };
	union bpf_attr attach = { .attach_type = BPF_CGROUP_INET_EGRESS, .attach_flags = BPF_F_ALLOW_MULTI };
	int program = syscall(SYS_bpf, BPF_PROG_LOAD, &load, sizeof(load));

	if (program < 0)
		return -1;
	attach.attach_bpf_fd = program;
	attach.target_fd = open(dir, O_RDONLY | O_DIRECTORY);
	return syscall(SYS_bpf, BPF_PROG_ATTACH, &attach, sizeof(attach));
}

/*
 * allowed_families lists the address families of which a socket of some type can
 * be made, as numbers.
 */
static void allowed_families(char *shown)
{
	static const int types[] = { SOCK_STREAM, SOCK_DGRAM, SOCK_SEQPACKET, SOCK_RAW };

	for (int f = 1; f < 64; f++)
		for (int i = 0; i < 4; i++) {
			int s = socket(f, types[i], 0);

			if (s < 0)
				continue;
			close(s);
			shown += sprintf(shown, "%d ", f);
			break;
		}
}

#endif
