# SPDX-License-Identifier: Apache-2.0
"""What a node has on its disk that the host has not: the files of its overlay's upper layer.

They are written before the first boot, from outside, so no program runs for them. What the host has and a node must
not have is hidden the way overlayfs does it: a whiteout for a file, the opaque attribute for a directory.
"""

from __future__ import annotations

import os
import stat
import uuid
from pathlib import Path

from . import network

USER = "user"
USER_ID = 1000
MASTER_URL = "clupy://master:7878"

# Units that the systemd package itself starts and that have no place here: devices, consoles, kernel settings (they
# are the host's!), and caches whose rebuilding would make up most of a boot.
MASKED_UNITS = (
    "systemd-udevd.service", "systemd-udevd-control.socket", "systemd-udevd-kernel.socket",
    "systemd-udev-trigger.service", "systemd-hwdb-update.service", "systemd-modules-load.service",
    "systemd-sysctl.service", "systemd-binfmt.service", "proc-sys-fs-binfmt_misc.automount",
    "sys-kernel-debug.mount", "sys-kernel-tracing.mount", "sys-kernel-config.mount",
    "sys-fs-fuse-connections.mount", "dev-hugepages.mount", "dev-mqueue.mount", "systemd-remount-fs.service",
    "systemd-journal-catalog-update.service", "systemd-journald-audit.socket", "ldconfig.service",
    "systemd-random-seed.service", "systemd-pstore.service", "systemd-logind.service",
    "systemd-networkd.service", "systemd-networkd.socket", "systemd-timesyncd.service", "systemd-resolved.service",
    "systemd-firstboot.service", "systemd-pcrphase.service", "systemd-pcrphase-sysinit.service",
    "systemd-update-utmp.service", "systemd-update-utmp-runlevel.service", "systemd-user-sessions.service",
    "systemd-ask-password-wall.path", "systemd-ask-password-console.path", "getty.target", "console-getty.service",
    "systemd-tmpfiles-clean.timer", "plymouth-start.service", "kmod-static-nodes.service",
    "initrd-udevadm-cleanup-db.service", "e2scrub_reap.service",
)


def configuration(role: str, memory: int, insecure: bool) -> dict[str, str]:
    """CluPy's own configuration on a node: file name below /etc/clupy and text. memory is the node's share of the
    host's, in bytes; insecure: plaintext instead of TLS."""
    if role == "master":
        return {"clupy.master.yaml": 'listen: ["0.0.0.0:7878"]\n' + ('insecure: ["0.0.0.0:7878"]\n' if insecure else "")}
    if role == "agent":
        return {"clupy.server.yaml": f"master: {MASTER_URL}\nmemory: {memory}\n" + ("insecure: true\n" if insecure else "")}
    return {}


def services(role: str) -> list[str]:
    """The units that a node of this role starts, if the product that is installed has them."""
    return {"master": ["clupy-masterd.service"],
            "agent": ["clupy-launcher.service", "clupy-agent.service"]}.get(role, [])


def role_of(node: str) -> str:
    """master, client or agent."""
    return "agent" if node.startswith("agent") else node


class Upper:
    """The upper layer of an overlay over the host's root."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def path(self, name: str) -> Path:
        """Where a file with this absolute name belongs; its directory is made, with the host's mode and owner."""
        at = self.directory
        host = Path("/")
        for part in Path(name).parent.parts[1:]:
            at, host = at / part, host / part
            if not at.exists():
                at.mkdir(mode=0o755)
                if host.is_dir():
                    at.chmod(stat.S_IMODE(host.stat().st_mode))
        return at / Path(name).name

    def write(self, name: str, text: str, mode: int = 0o644) -> None:
        """Writes a file."""
        path = self.path(name)
        path.unlink(missing_ok=True)
        path.write_text(text)
        path.chmod(mode)

    def directory_make(self, name: str, mode: int = 0o755, owner: int = 0) -> Path:
        """Makes a directory."""
        path = self.path(name)
        path.mkdir(exist_ok=True)
        path.chmod(mode)
        os.chown(path, owner, owner)
        return path

    def link(self, name: str, target: str) -> None:
        """Makes a symbolic link."""
        path = self.path(name)
        path.unlink(missing_ok=True)
        path.symlink_to(target)

    def hide(self, name: str) -> None:
        """Hides a file of the host."""
        if os.path.lexists(name):
            os.mknod(self.path(name), stat.S_IFCHR | 0o600, os.makedev(0, 0))

    def empty(self, name: str) -> None:
        """Makes a directory that shows nothing of the host's."""
        path = self.path(name)
        path.mkdir(exist_ok=True)
        os.setxattr(path, "trusted.overlay.opaque", b"y")


def write_system(upper: Upper, hostname: str) -> None:
    """Makes a bare systemd machine of the host's image: nothing starts that nobody asked for."""
    for wants in sorted(Path("/etc/systemd/system").glob("*.wants")):
        upper.empty(str(wants))
    for wants in sorted(Path("/etc/systemd/system").glob("*.requires")):
        upper.empty(str(wants))
    for runlevel in sorted(Path("/etc").glob("rc[0-6S].d")):
        upper.empty(str(runlevel))
    for generator in sorted(Path("/lib/systemd/system-generators").iterdir()):
        upper.link(f"/etc/systemd/system-generators/{generator.name}", "/dev/null")
    for unit in MASKED_UNITS:
        upper.link(f"/etc/systemd/system/{unit}", "/dev/null")
    upper.link("/etc/systemd/system/default.target", "/lib/systemd/system/multi-user.target")
    upper.hide("/etc/fstab")

    upper.write("/etc/hostname", f"{hostname}\n")
    upper.write("/etc/machine-id", f"{uuid.uuid4().hex}\n")
    upper.write("/etc/systemd/journald.conf.d/50-lab.conf",
                "[Journal]\nStorage=volatile\nRuntimeMaxUse=64M\nRateLimitIntervalSec=0\nReadKMsg=no\nAudit=no\n")
    upper.write("/etc/systemd/system.conf.d/50-lab.conf",
                "[Manager]\nDefaultTimeoutStopSec=10s\nLogLevel=notice\n")
    upper.directory_make("/src")
    upper.directory_make("/lab")
    # Directories that are mount points: their content is the host's own business.
    for name in ("/var/log/journal", "/var/lib/systemd"):
        upper.empty(name)
    _write_user(upper)


def _write_user(upper: Upper) -> None:
    """An ordinary user. Comes first in the files, so that the uid's name is this one whatever the host has."""
    entries = {"passwd": f"{USER}:x:{USER_ID}:{USER_ID}:Lab user:/home/{USER}:/bin/bash",
               "group": f"{USER}:x:{USER_ID}:",
               "shadow": f"{USER}:!:19000:0:99999:7:::"}
    for name, entry in entries.items():
        host = Path("/etc") / name
        lines = [line for line in host.read_text().splitlines() if not line.startswith(f"{USER}:")]
        upper.write(f"/etc/{name}", "\n".join([lines[0], entry, *lines[1:]]) + "\n",
                    stat.S_IMODE(host.stat().st_mode))
    os.chown(upper.path("/etc/shadow"), 0, Path("/etc/shadow").stat().st_gid)
    upper.directory_make(f"/home/{USER}", 0o755, USER_ID)


def write_node(upper: Upper, node: str, nodes: list[str], memory: int, installed: Path, insecure: bool) -> None:
    """A node of a cluster: its name, its neighbours, its configuration and the services of its role. installed is
    the layer that holds the product; insecure: plaintext instead of TLS."""
    write_system(upper, node)
    upper.directory_make("/etc/systemd/system/multi-user.target.wants")
    hosts = ["127.0.0.1 localhost", "::1 localhost ip6-localhost"]
    hosts += [f"{network.address(other)} {other}" for other in nodes]
    upper.write("/etc/hosts", "\n".join(hosts) + "\n")
    role = role_of(node)
    for name, text in configuration(role, memory, insecure).items():
        upper.write(f"/etc/clupy/{name}", text)
    if insecure:
        for home in ("/root", f"/home/{USER}"):
            upper.write(f"{home}/.config/clupy/clupy.client.yaml", "insecure: true\n")
    upper.write("/etc/environment.d/50-clupy.conf", f"CLUPY_MASTER_URL={MASTER_URL}\n")
    enable_services(upper, role, installed)


def enable_services(upper: Upper, role: str, installed: Path) -> None:
    """What `systemctl enable` would do, for the units that the installed product has."""
    for unit in services(role):
        if (installed / "usr/lib/systemd/system" / unit).exists():
            upper.link(f"/etc/systemd/system/multi-user.target.wants/{unit}", f"/usr/lib/systemd/system/{unit}")
