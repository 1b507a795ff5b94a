#!/bin/sh
# boot.sh TREE CGROUP NAME OPTION…: boot the Debian in TREE, which stays as it is. The OPTIONs are nspawn's: --boot, or
# the command to be PID 1 of what boots nothing.
#
# Runs in mount and pid namespaces of its own: what is mounted and started here goes when its first process does.
set -eu
tree=$1 cgroup=$2 name=$3
shift 3

mount --make-rprivate /
echo $$ >"$cgroup/cgroup.procs"
# systemd 258 and later boot on cgroup v2 alone; hosts that mix it with v1 keep it elsewhere.
if [ "$(stat -fc %T /sys/fs/cgroup)" != cgroup2fs ]; then
    umount -R /sys/fs/cgroup
    mount -t cgroup2 cgroup2 /sys/fs/cgroup
fi

# All that the machine writes goes to memory that only this mount namespace holds.
mount -t tmpfs -o mode=0755 tmpfs /mnt
mkdir /mnt/upper /mnt/work /mnt/root
mkdir /mnt/upper/etc
tr -d - </proc/sys/kernel/random/uuid >/mnt/upper/etc/machine-id # an empty one means first boot, which asks questions
mount -t overlay -o "lowerdir=$tree,upperdir=/mnt/upper,workdir=/mnt/work" overlay /mnt/root

export SYSTEMD_NSPAWN_UNIFIED_HIERARCHY=1
exec systemd-nspawn --quiet --directory=/mnt/root --machine="$name" --console=pipe --register=no --keep-unit \
    --settings=no --private-network --link-journal=no --resolv-conf=off --timezone=off "$@" </dev/null
