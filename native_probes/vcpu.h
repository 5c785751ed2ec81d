/* SPDX-License-Identifier: MIT */
/* vcpu.h - an actor whose accesses are made by a vCPU: memory reaches it through nested page tables (KVM). */
#ifndef KST_VCPU_H
#define KST_VCPU_H

#include "actor.h"

struct kvm_run;

struct kst_vcpu {
	int kvm, vm, fd;
	struct kvm_run *run;
	size_t run_size;
	char *low;              /* CODE to PD */
	const char *failed;     /* what could not be had, when errno says why */
	uint64_t addr, len;     /* the region */
	uint64_t backing;       /* what the VM is given as its memory; not `addr` under control stale_tables */
};

enum kst_slot { KST_SLOT_LOW, KST_SLOT_REGION };

/* Why no vCPU can be had, as text for the user; "" when one can. */
const char *kst_vcpu_missing(void);

/*
 * Holds a VM of its own until this process ends, and replies. With the first VM
 * and after the last one KVM patches running code of the kernel
 * (preempt_notifier_key in __schedule()), and QEMU's TCG now and then executes
 * what was there before: one VM for all tests makes that happen once.
 */
json_t *kst_vcpu_keep(void);

/* A VM with one vCPU whose memory is `region`, or NULL with *reply set. */
struct kst_vcpu *kst_vcpu_new(const struct kst_subject *s, const struct kst_region *region, json_t **reply);
void kst_vcpu_free(struct kst_vcpu *vcpu); /* NULL is none */

/* Gives the VM its memory, or its `flags`; false, with errno and `failed` set, when KVM refuses. */
bool kst_vcpu_set_slot(struct kst_vcpu *vcpu, enum kst_slot slot, uint32_t flags);

/* Makes the accesses of a ticket; `exit` of the ticket says why it could not. */
void kst_vcpu_serve(struct kst_vcpu *vcpu, struct kst_ticket *ticket);

/* Where the guest counts the accesses that it has completed, while they go on. */
uint64_t *kst_vcpu_counter(struct kst_vcpu *vcpu);

#endif
