#!/bin/sh
# Runs as the guest's only job (vng's --exec): SSH for commands, and the probe on a serial port of its own.
# vng's own DHCP waits for a udev that is not here, so the address of QEMU's user network is set by hand.
say() { echo "kst: $*" > /dev/kmsg; }

say "guest start"
while read -r module; do
	[ -z "$module" ] || insmod "/kst/modules/$module" || say "insmod $module failed"
done < /kst/modules/order
ifconfig eth0 10.0.2.15 netmask 255.255.255.0 up || say "no eth0"

# The keys are on a share owned by whoever runs the host side; dropbear insists on root's own.
mount -t tmpfs -o mode=700 tmpfs /root
umask 077
cp /kst/hostkey /kst/authorized_keys /root/

/usr/sbin/dropbear -F -E -s -j -k -r /root/hostkey -D /root -p 22 &

# What the tests use: the probe asks for it later.
ifconfig lo up
mount -t tmpfs tmpfs /tmp
echo 24 > /proc/sys/vm/nr_hugepages 2> /dev/null
thp=/sys/kernel/mm/transparent_hugepage
echo madvise > $thp/hugepages-64kB/enabled 2> /dev/null
echo advise > $thp/shmem_enabled 2> /dev/null
mount -t debugfs debugfs /sys/kernel/debug 2> /dev/null
# Swap to compressed memory.
if [ -e /sys/block/zram0 ]; then
	echo 128M > /sys/block/zram0/disksize && mkswap /dev/zram0 > /dev/null && swapon /dev/zram0 || say "no swap"
fi

# Over SSH a request takes 9 ms without KVM, over a virtio-serial port half a millisecond (vng.py has the other end).
for port in /sys/class/virtio-ports/*; do
	[ "$(cat "$port/name")" != kst.probe ] || probe=/dev/${port##*/}
done
[ -n "$probe" ] || say "no port for the probe: virtio_console is missing"
say "probe"
if [ -n "$probe" ]; then
	exec 3<> "$probe"
	until read -r _ <&3; do usleep 10000; done # the end of the input, until the host is at the other end and says so
	/kst/agent <&3 >&3
	printf '\004' >&3 # the port stays open: this says that the probe has ended (stream.py)
fi
wait
