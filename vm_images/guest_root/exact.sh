#!/bin/busybox sh
# Runs as the first program of a guest that counts instructions (initramfs.py).
/bin/busybox --install -s /bin
export PATH=/bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
[ -c /dev/null ] || mount -t devtmpfs devtmpfs /dev
mount -t tmpfs tmpfs /tmp
mount -t debugfs debugfs /sys/kernel/debug 2> /dev/null
say() { echo "kst: $*" > /dev/kmsg; }

while read -r module; do
	[ -z "$module" ] || insmod "/kst/modules/$module" || say "insmod $module failed"
done < /kst/modules/order
ifconfig lo up
echo 72 > /proc/sys/vm/nr_hugepages 2> /dev/null
# DAMON_STAT, which Debian's kernels have switched on, clears the accessed bits of pages that are being measured.
echo N > /sys/module/damon_stat/parameters/enabled 2> /dev/null

# A process's start and end cost the same beside a crowd, whatever the boot left (crowd.c).
say "crowd"
/kst/agent crowd || say "no crowd" # exact.py knows these words
# What the boot still has to do is done then; an idle guest's time passes at once. Without it half of the samples on
# Debian's 7.3.4 had an interrupt more.
say "calm"
sleep 60
say "probe"
/kst/agent stopping
say "the probe ended" # guest.py knows these words
poweroff -f
