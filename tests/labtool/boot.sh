#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# From a process in new namespaces to systemd as a node's PID 1. Usage: boot.sh NODE-DIRECTORY STEP
set -eu

dir=$1
step=$2

# A cgroup namespace begins where its maker is: move first, then make it.
if [ "$step" = cgroups ]; then
        while read -r group; do
                echo 0 > "$group/node/cgroup.procs"
        done < "$dir/cgroups"
        exec unshare --cgroup /bin/sh "$0" "$dir" root
fi

# What follows reads its facts from files before the old root goes out of sight.
root=$dir/root
hostname=$(cat "$dir/upper/etc/hostname")

mount -t overlay -o "lowerdir=$(cat "$dir/lower"),upperdir=$dir/upper,workdir=$dir/work" overlay "$root"
mount --bind "$(cat "$dir/source")" "$root/src"
mount -o remount,bind,ro "$root/src"
mount --bind "$(cat "$dir/shared")" "$root/lab"

mount -t proc -o nosuid,nodev,noexec proc "$root/proc"
mount --bind "$dir/boot_id" "$root/proc/sys/kernel/random/boot_id"
mount -t sysfs -o ro,nosuid,nodev,noexec sysfs "$root/sys"
mount -t tmpfs -o nosuid,nodev,mode=0755 tmpfs "$root/run"
mount -t tmpfs -o nosuid,nodev,mode=1777 tmpfs "$root/tmp"

mount -t tmpfs -o nosuid,mode=0755 tmpfs "$root/dev"
for device in null zero full random urandom tty; do
        : > "$root/dev/$device"
        mount --bind "/dev/$device" "$root/dev/$device"
done
mkdir "$root/dev/pts" "$root/dev/shm"
mount -t devpts -o newinstance,nosuid,noexec,mode=0620,gid=5,ptmxmode=0666 devpts "$root/dev/pts"
mount -t tmpfs -o nosuid,nodev,mode=1777 tmpfs "$root/dev/shm"
ln -s pts/ptmx "$root/dev/ptmx"
ln -s /proc/self/fd "$root/dev/fd"
ln -s fd/0 "$root/dev/stdin"
ln -s fd/1 "$root/dev/stdout"
ln -s fd/2 "$root/dev/stderr"

if [ -e /sys/fs/cgroup/cgroup.controllers ]; then
        mount -t cgroup2 -o nosuid,nodev,noexec cgroup2 "$root/sys/fs/cgroup"
else
        mount -t tmpfs -o nosuid,nodev,noexec,mode=0755 tmpfs "$root/sys/fs/cgroup"
        while read -r _ where type options _; do
                case "$type $where" in
                "cgroup /sys/fs/cgroup/"*)
                        name=${where#/sys/fs/cgroup/}
                        # The controllers of a hierarchy are its mount options, less the generic ones.
                        controllers=$(echo "$options" | tr , '\n' | grep -vE '^(rw|ro|relatime|noatime|nosuid|nodev|noexec|xattr|clone_children|release_agent=.*)$' | paste -sd, -)
                        mkdir "$root/sys/fs/cgroup/$name"
                        mount -t cgroup -o "nosuid,nodev,noexec,$controllers" cgroup "$root/sys/fs/cgroup/$name"
                        ;;
                "cgroup2 /sys/fs/cgroup/"*)
                        mkdir "$root/sys/fs/cgroup/unified"
                        mount -t cgroup2 -o nosuid,nodev,noexec cgroup2 "$root/sys/fs/cgroup/unified"
                        ;;
                esac
        done < /proc/self/mounts
fi

# A second, whole proc: a user namespace may mount one of its own only where it sees one with nothing mounted over it,
# and the node's has the boot id.
mkdir -p "$root/run/lab/proc"
mount -t proc -o nosuid,nodev,noexec proc "$root/run/lab/proc"

# The socket on which systemd says that the node is up.
: > "$root/run/lab/notify"
mount --bind "$dir/notify" "$root/run/lab/notify"

hostname "$hostname"
mkdir "$root/run/lab/old-root"
cd "$root"
pivot_root . run/lab/old-root
umount --lazy /run/lab/old-root
rmdir /run/lab/old-root
# As on every machine that systemd has booted as the first one: by this the credentials that it mounts reach their service.
mount --make-rshared /

exec env -i PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin LANG=C.UTF-8 container=clupy-lab \
        NOTIFY_SOCKET=/run/lab/notify /lib/systemd/systemd
