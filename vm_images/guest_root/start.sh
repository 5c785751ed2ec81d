#!/bin/sh
# Runs as the guest's only job (vng's --exec): network up, SSH server in the foreground.
# vng's own DHCP waits for a udev that is not here, so the address of QEMU's user network is set by hand.
say() { echo "kst: $*" > /dev/kmsg; }

say "guest start"
for module in $(cat /kst/modules/order); do
	insmod "/kst/modules/$module" || say "insmod $module failed"
done
ip link set lo up
ip link set eth0 up || say "no eth0"
ip addr add 10.0.2.15/24 dev eth0

# The keys are on a share owned by whoever runs the host side; dropbear insists on root's own.
mount -t tmpfs -o mode=700 tmpfs /root
cp /kst/hostkey /kst/authorized_keys /root/
chmod 600 /root/hostkey /root/authorized_keys
mkdir -p /tmp /dev/hugepages
mountpoint -q /tmp || mount -t tmpfs tmpfs /tmp
mount -t hugetlbfs hugetlbfs /dev/hugepages 2> /dev/null
echo 16 > /proc/sys/vm/nr_hugepages 2> /dev/null

say "sshd"
exec /usr/sbin/dropbear -F -E -s -j -k -r /root/hostkey -D /root -p 22
