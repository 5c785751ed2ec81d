/* SPDX-License-Identifier: MIT */
/*
 * vcpu.c - a VMM of one vCPU, which reads, writes and executes the pages of a region when told to.
 *
 * The guest is in long mode and has no kernel: its first pages hold the loops
 * below and page tables that map all memory onto itself, the region follows at
 * the next 2 MiB. It halts when it is done; anything else that makes it leave
 * is told in the ticket. Source: Documentation/virt/kvm/api.rst.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "vcpu.h"

#if defined(__x86_64__)

#define HUGE (2ull << 20)
#define GUEST_MAX (1ull << 30) /* what one page of 2 MiB entries maps */
#define CPUID_MAX 256

/* Guest-physical, and virtual, which is the same. */
enum { CODE, DATA = 0x1000, STACK = 0x2000, PML4 = 0x2000, PDPT = 0x3000, PD = 0x4000, LOW_SIZE = 0x5000 };

#define PRESENT_WRITABLE 3ull
#define HUGE_ENTRY 0x80ull
#define CR0_PE_ET_PG 0x80000011ull
#define CR4_PAE (1ull << 5)
#define EFER_LME_LMA ((1ull << 8) | (1ull << 10))
#define RFLAGS_FIXED 2ull

/* rdi: address, rsi: stride, rcx: count, rdx: value, r8: the counter; rax: result */
#define LOOP(name, access)                                                                     \
	"kst_guest_" name ":\n\t" access "\n\tincq (%r8)\n\taddq %rsi, %rdi\n\tdecq %rcx\n\t" \
	"jnz kst_guest_" name "\n\thlt\n"

__asm__(".pushsection .rodata\n"
	"kst_guest_start:\n" LOOP("read", "movq (%rdi), %rax") LOOP("write", "movq %rdx, (%rdi)\n\tmovq %rdx, %rax")
		LOOP("rmw", "movq %rdx, %rax\n\tlock xaddq %rax, (%rdi)") LOOP("exec", "callq *%rdi")
	"kst_guest_end:\n.popsection\n");

#define LABEL(name) extern const char kst_guest_##name[] __attribute__((visibility("hidden")))
LABEL(start);
LABEL(read);
LABEL(write);
LABEL(rmw);
LABEL(exec);
LABEL(end);

static bool may(struct kst_vcpu *v, const char *what, long outcome)
{
	if (outcome < 0)
		v->failed = what;
	return outcome >= 0;
}

/* Registering the MMU notifier gives up where a signal is pending (mm_take_all_locks()), as when a child has just ended. */
static int create(int fd, unsigned long request)
{
	int made;

	do
		made = ioctl(fd, request, 0);
	while (made < 0 && errno == EINTR);
	return made;
}

static bool open_vm(struct kst_vcpu *v)
{
	return may(v, "/dev/kvm", v->kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC)) &&
	       may(v, "KVM_CREATE_VM", v->vm = create(v->kvm, KVM_CREATE_VM)) &&
	       may(v, "KVM_CREATE_VCPU", v->fd = create(v->vm, KVM_CREATE_VCPU));
}

static void close_vm(struct kst_vcpu *v)
{
	const int fds[] = {v->fd, v->vm, v->kvm};

	for (size_t i = 0; i < sizeof(fds) / sizeof(fds[0]); i++)
		if (fds[i] >= 0)
			close(fds[i]);
}

const char *kst_vcpu_missing(void)
{
	static char reason[128];
	int kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);

	*reason = 0;
	if (kvm < 0)
		snprintf(reason, sizeof(reason), "/dev/kvm: %s", strerrordesc_np(errno));
	else if (ioctl(kvm, KVM_GET_API_VERSION, 0) != KVM_API_VERSION)
		snprintf(reason, sizeof(reason), "/dev/kvm is not of version %d", KVM_API_VERSION);
	if (kvm >= 0)
		close(kvm);
	return reason;
}

json_t *kst_vcpu_keep(void)
{
	static struct kst_vcpu kept = {.kvm = -1, .vm = -1, .fd = -1};
	json_t *reply;

	if (kept.fd >= 0 || open_vm(&kept))
		return kst_ok(NULL);
	reply = kst_errno(errno, kept.failed);
	close_vm(&kept);
	kept.kvm = kept.vm = kept.fd = -1;
	return reply;
}

static void *map(struct kst_vcpu *v, size_t size, int flags, int fd)
{
	void *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, flags, fd, 0);

	return may(v, "mmap", memory == MAP_FAILED ? -1 : 0) ? memory : NULL;
}

bool kst_vcpu_set_slot(struct kst_vcpu *v, enum kst_slot slot, uint32_t flags)
{
	struct kvm_userspace_memory_region memory = {
		.slot = slot, .flags = flags, .memory_size = LOW_SIZE, .userspace_addr = (uint64_t)(uintptr_t)v->low};

	if (slot == KST_SLOT_REGION) {
		memory.guest_phys_addr = HUGE;
		memory.memory_size = v->len;
		memory.userspace_addr = v->backing;
	}
	return may(v, "KVM_SET_USER_MEMORY_REGION", ioctl(v->vm, KVM_SET_USER_MEMORY_REGION, &memory));
}

static bool fill_low(struct kst_vcpu *v)
{
	uint64_t *entry;

	v->low = map(v, LOW_SIZE, MAP_SHARED | MAP_ANONYMOUS, -1);
	if (!v->low)
		return false;
	memcpy(v->low + CODE, kst_guest_start, (size_t)(kst_guest_end - kst_guest_start));
	*(uint64_t *)(void *)(v->low + PML4) = PDPT | PRESENT_WRITABLE;
	*(uint64_t *)(void *)(v->low + PDPT) = PD | PRESENT_WRITABLE;
	entry = (uint64_t *)(void *)(v->low + PD);
	for (uint64_t i = 0; i < GUEST_MAX / HUGE; i++)
		entry[i] = i * HUGE | HUGE_ENTRY | PRESENT_WRITABLE;
	return true;
}

/* A guest may be in long mode only if its CPU is said to have it. */
static bool set_cpuid(struct kst_vcpu *v)
{
	struct kvm_cpuid2 *cpuid = calloc(1, sizeof(*cpuid) + CPUID_MAX * sizeof(cpuid->entries[0]));
	bool done;

	if (!cpuid)
		abort();
	cpuid->nent = CPUID_MAX;
	done = may(v, "KVM_GET_SUPPORTED_CPUID", ioctl(v->kvm, KVM_GET_SUPPORTED_CPUID, cpuid)) &&
	       may(v, "KVM_SET_CPUID2", ioctl(v->fd, KVM_SET_CPUID2, cpuid));
	free(cpuid);
	return done;
}

static bool set_mode(struct kst_vcpu *v)
{
	const struct kvm_segment data = {.limit = UINT32_MAX, .selector = 16, .type = 3, .present = 1, .db = 1, .s = 1, .g = 1};
	struct kvm_sregs sregs;

	if (!may(v, "KVM_GET_SREGS", ioctl(v->fd, KVM_GET_SREGS, &sregs)))
		return false;
	sregs.cr0 = CR0_PE_ET_PG;
	sregs.cr3 = PML4;
	sregs.cr4 = CR4_PAE;
	sregs.efer = EFER_LME_LMA;
	sregs.ds = sregs.es = sregs.fs = sregs.gs = sregs.ss = data;
	sregs.cs = (struct kvm_segment){.limit = UINT32_MAX, .selector = 8, .type = 11, .present = 1, .l = 1, .s = 1, .g = 1};
	return may(v, "KVM_SET_SREGS", ioctl(v->fd, KVM_SET_SREGS, &sregs));
}

static bool start(struct kst_vcpu *v)
{
	int size;

	if (!open_vm(v) || !may(v, "KVM_GET_VCPU_MMAP_SIZE", size = ioctl(v->kvm, KVM_GET_VCPU_MMAP_SIZE, 0)))
		return false;
	v->run_size = (size_t)size;
	v->run = map(v, v->run_size, MAP_SHARED, v->fd);
	return v->run && fill_low(v) && kst_vcpu_set_slot(v, KST_SLOT_LOW, 0) && kst_vcpu_set_slot(v, KST_SLOT_REGION, 0) && set_cpuid(v) &&
	       set_mode(v);
}

struct kst_vcpu *kst_vcpu_new(const struct kst_subject *s, const struct kst_region *region, json_t **reply)
{
	struct kst_vcpu *v;
	void *other = NULL;

	if (region->len > GUEST_MAX - HUGE) {
		*reply = kst_error("argument region: a guest has at most %llu bytes", GUEST_MAX - HUGE);
		return NULL;
	}
	v = calloc(1, sizeof(*v));
	if (!v)
		abort();
	*v = (struct kst_vcpu){
		.kvm = -1, .vm = -1, .fd = -1, .addr = region->addr, .len = region->len, .backing = region->addr};
	if (kst_control(s, "stale_tables"))
		other = map(v, region->len, MAP_PRIVATE | MAP_ANONYMOUS, -1);
	if (other)
		v->backing = (uint64_t)(uintptr_t)other;
	if (start(v))
		return v;
	*reply = kst_errno(errno, v->failed);
	kst_vcpu_free(v);
	return NULL;
}

void kst_vcpu_free(struct kst_vcpu *v)
{
	if (!v)
		return;
	if (v->run)
		munmap(v->run, v->run_size);
	close_vm(v);
	if (v->low)
		munmap(v->low, LOW_SIZE);
	if (v->backing != v->addr)
		munmap((void *)(uintptr_t)v->backing, v->len);
	free(v);
}

uint64_t *kst_vcpu_counter(struct kst_vcpu *v)
{
	return (uint64_t *)(void *)(v->low + DATA);
}

/* Lets the guest make `count` accesses; false, with `exit` of the ticket set, when it left for another reason. */
static bool enter(struct kst_vcpu *v, struct kst_ticket *t, enum kst_how how, uint64_t addr, uint64_t count)
{
	static const char *const entry[] = {
		[KST_READ] = kst_guest_read, [KST_WRITE] = kst_guest_write, [KST_RMW] = kst_guest_rmw, [KST_EXEC] = kst_guest_exec};
	struct kvm_regs regs = {.rip = (uint64_t)(entry[how] - kst_guest_start), .rflags = RFLAGS_FIXED, .rsp = STACK,
				.rdi = addr - v->addr + HUGE, .rsi = t->stride, .rcx = count, .rdx = t->value, .r8 = DATA};
	const char *error = NULL;

	if (ioctl(v->fd, KVM_SET_REGS, &regs))
		error = strerrorname_np(errno);
	while (!error && ioctl(v->fd, KVM_RUN, 0))
		if (errno != EINTR)
			error = strerrorname_np(errno);
	if (error)
		snprintf(t->exit, sizeof(t->exit), "%s", error);
	else if (v->run->exit_reason != KVM_EXIT_HLT)
		snprintf(t->exit, sizeof(t->exit), "KVM exit %u", v->run->exit_reason);
	else if (ioctl(v->fd, KVM_GET_REGS, &regs))
		snprintf(t->exit, sizeof(t->exit), "%s", strerrorname_np(errno));
	if (*t->exit) { /* what KVM would still do of a broken off instruction is done before the next one */
		v->run->immediate_exit = 1;
		ioctl(v->fd, KVM_RUN, 0);
		v->run->immediate_exit = 0;
		return false;
	}
	if (how == t->how)
		t->result = regs.rax;
	return true;
}

void kst_vcpu_serve(struct kst_vcpu *v, struct kst_ticket *t)
{
	bool went_on = true;

	if (!t->pages && !t->neighbour)
		went_on = !t->count || enter(v, t, t->how, t->addr, t->count);
	else
		for (uint64_t i = 0; i < t->count && went_on; i++) {
			uint64_t addr = t->addr + (t->pages ? t->pages[i] : i) * t->stride;

			went_on = enter(v, t, t->how, addr, 1);
			if (went_on && t->neighbour)
				went_on = enter(v, t, KST_READ, addr + t->neighbour, 1);
		}
	t->completed = __atomic_load_n(kst_vcpu_counter(v), __ATOMIC_RELAXED);
}

#else

const char *kst_vcpu_missing(void)
{
	return "the probe's vCPU runs x86-64 code";
}

json_t *kst_vcpu_keep(void)
{
	return kst_error("%s", kst_vcpu_missing());
}

struct kst_vcpu *kst_vcpu_new(const struct kst_subject *s, const struct kst_region *region, json_t **reply)
{
	(void)s, (void)region;
	*reply = kst_error("%s", kst_vcpu_missing());
	return NULL;
}

void kst_vcpu_free(struct kst_vcpu *vcpu)
{
	(void)vcpu;
}

void kst_vcpu_serve(struct kst_vcpu *vcpu, struct kst_ticket *ticket)
{
	(void)vcpu, (void)ticket;
}

uint64_t *kst_vcpu_counter(struct kst_vcpu *vcpu)
{
	return (uint64_t *)(void *)vcpu;
}

#endif
