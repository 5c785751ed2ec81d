/* SPDX-License-Identifier: MIT */
/*
 * cpus.c - where the probe's threads run. On one CPU a wake-up is a context switch; across two emulated ones it is an
 * interrupt, and costs several times as much. What is to race needs them all.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <sched.h>

#include "kst.h"

/* What this process was given; asked before the first change. */
static const cpu_set_t *given(void)
{
	static cpu_set_t set;
	static bool known;

	if (!known)
		known = !sched_getaffinity(0, sizeof(set), &set);
	return known ? &set : NULL;
}

int kst_cpus(void)
{
	return given() ? CPU_COUNT(given()) : 1;
}

bool kst_cpus_has(int cpu)
{
	return given() && CPU_ISSET(cpu, given());
}

int kst_cpus_go_to(int cpu)
{
	cpu_set_t one;

	CPU_ZERO(&one);
	CPU_SET(cpu, &one);
	return sched_setaffinity(0, sizeof(one), &one) ? errno : 0;
}

int kst_cpus_place(bool one)
{
	int cpu = 0;

	if (!given())
		return errno;
	if (!one)
		return sched_setaffinity(0, sizeof(*given()), given()) ? errno : 0;
	while (!CPU_ISSET(cpu, given()))
		cpu++;
	return kst_cpus_go_to(cpu);
}
