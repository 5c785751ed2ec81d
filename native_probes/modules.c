/* SPDX-License-Identifier: MIT */
/* modules.c - the kernel's KVM modules, which a guest of kst has beside the agent (guest_root.py) and few tests want. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "agent.h"

#define MODULES "/kst/modules/"

/* In the order of the list: each needs those before it. One that does not suit the CPU is refused, and that is fine. */
json_t *kst_load_kvm(void)
{
	FILE *list = fopen(MODULES "kvm", "re");
	char name[128], path[192];
	int loaded = 0, fd;

	while (list && fgets(name, sizeof(name), list)) {
		name[strcspn(name, "\n")] = 0;
		snprintf(path, sizeof(path), MODULES "%s", name);
		fd = strchr(name, '/') ? -1 : open(path, O_RDONLY | O_CLOEXEC);
		if (fd < 0)
			continue;
		loaded += !syscall(SYS_finit_module, fd, "", 0) || errno == EEXIST;
		close(fd);
	}
	if (list)
		fclose(list);
	return kst_ok(json_pack("{s:i}", "loaded", loaded));
}
