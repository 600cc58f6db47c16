#!/bin/busybox sh
# First process of the emulated phone. MODULES is filled in when the image is built.
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
/bin/busybox --install -s /usr/bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts
mount -t tmpfs tmpfs /dev/shm
mount -t tmpfs -o size=60% tmpfs /data # a limit of its own: a full device is an error there, not the end of the machine
mkdir -p /data/local/tmp
for module in MODULES; do
  insmod "/lib/modules/$module.ko" || echo "edge_dp: no module $module"
done
echo 0 > /proc/sys/kernel/randomize_va_space # the same addresses in each run: the same instructions
echo -1 > /proc/sys/kernel/perf_event_paranoid
[ -b /dev/vda ] && mount -t ext4 -o ro /dev/vda /opt/python
ip link set lo up
ip address add 10.0.2.15/24 dev eth0
ip link set eth0 up
export HOME=/root TMPDIR=/data/local/tmp
cd /
while true; do
  ADBD_PORT=6555 adbd > /var/log/adbd.log 2>&1 &
  until grep -q ':199B .* 0A ' /proc/net/tcp /proc/net/tcp6; do # a listener on 6555; adb is slow to try again
    usleep 10000
  done
  echo "edge_dp: ready"
  wait
  echo "edge_dp: adbd ended"
  sleep 1
done
