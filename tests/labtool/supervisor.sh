#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Holds a node's namespaces from outside. Usage: supervisor.sh NODE-DIRECTORY
#
# It joins the node's cgroups before it makes anything, so that it is found and ended whenever `./lab` dies; when they
# are gone (`./lab down` was quicker), it ends at once.
set -eu

dir=$1

if [ ! -s "$dir/cgroups" ]; then
        # A scope that the host's systemd delegated to us.
        group=/sys/fs/cgroup$(sed -n 's/^0:://p' /proc/self/cgroup)
        mkdir "$group/supervisor" "$group/node"
        echo 0 > "$group/supervisor/cgroup.procs"
        read -r controllers < "$group/cgroup.controllers"
        for controller in $controllers; do
                echo "+$controller" > "$group/cgroup.subtree_control"
        done
        echo "$group" > "$dir/cgroups"
else
        while read -r group; do
                echo 0 > "$group/supervisor/cgroup.procs"
        done < "$dir/cgroups"
fi

exec nsenter --net="$dir/net" unshare --mount --propagation private --uts --ipc --pid --fork --kill-child \
        /bin/sh "$(dirname "$0")/boot.sh" "$dir" cgroups
