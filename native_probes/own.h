/* SPDX-License-Identifier: MIT */
/* own.h - memory of the probe's own, beside that under test. */
#ifndef KST_OWN_H
#define KST_OWN_H

#include <stddef.h>
#include <sys/mman.h>

/* Populated; a child, whose fork may be what is measured, does not get it. MAP_FAILED: there is none. */
static inline void *kst_own_memory(size_t len)
{
	void *own = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);

	if (own != MAP_FAILED)
		madvise(own, len, MADV_DONTFORK);
	return own;
}

#endif
