# SPDX-License-Identifier: Apache-2.0
"""Attacks in native calls, made when this module is imported. RESULTS has "done" for each that succeeded, else the errno.

On a node it becomes a package of the environment, imported in the zygote; a task imports it too, and root outside of any
sandbox, as the control: what does not succeed there shows nothing. Beside it lies targets.json. Numbers are SANDBOX lines:
what a task must not be able to do.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import json
import os
import signal
import socket
import stat
import struct
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

LIBC = ctypes.CDLL(None, use_errno=True)
TARGETS: dict[str, Any] = {"launcher": 1, "tcp": ["127.0.0.1", 1], "abstract": "none"}
_FILE = Path(__file__).with_name("targets.json")
if _FILE.exists():
    TARGETS.update(json.loads(_FILE.read_text()))

SYSCALLS = {"mount": 165, "umount2": 166, "ptrace": 101, "process_vm_readv": 310, "pidfd_open": 434, "pidfd_getfd": 438,
            "unshare": 272, "clone": 56, "clone3": 435, "personality": 135, "modify_ldt": 154, "fsopen": 430,
            "open_tree": 428, "io_uring_setup": 425, "name_to_handle_at": 303, "clock_settime": 227, "sethostname": 170,
            "chroot": 161, "quotactl": 179, "acct": 163, "syslog": 103, "kcmp": 312, "setns": 308}
CLONE_NEW = {"mnt": 0x00020000, "uts": 0x04000000, "ipc": 0x08000000, "user": 0x10000000, "pid": 0x20000000,
             "net": 0x40000000}
CLONE_PARENT = 0x8000


def call(name: str, *arguments: Any) -> int:
    """A raw system call. Raises OSError."""
    converted = [a if isinstance(a, (bytes, ctypes.Array, ctypes._SimpleCData)) else ctypes.c_long(a) for a in arguments]
    result = LIBC.syscall(ctypes.c_long(SYSCALLS[name]), *converted)
    if result < 0:
        raise OSError(ctypes.get_errno(), name)
    return int(result)


def in_child(function: Callable[[], Any]) -> None:
    """Runs an attack in a process of its own, for what changes the process or leaves something behind. Raises its OSError."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        code = 0
        try:
            function()
        except OSError as error:
            code = error.errno or errno.EIO
        finally:
            os.write(writer, struct.pack("i", code))
            os._exit(0)
    os.close(writer)
    answer = os.read(reader, 4)
    os.close(reader)
    os.waitpid(pid, 0)
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:  # what the attack left to us
            pass
    code = struct.unpack("i", answer)[0] if answer else errno.EIO
    if code:
        raise OSError(code, os.strerror(code))


def read_file(path: str) -> None:
    with open(path, "rb") as file:
        file.read(1)


def write_file(path: str) -> None:
    with open(path, "wb"):
        pass
    os.unlink(path)


def connect_unix(path: str, kind: int = socket.SOCK_STREAM) -> None:
    with socket.socket(socket.AF_UNIX, kind) as s:
        s.connect(path)


def connect_tcp() -> None:
    host, port = TARGETS["tcp"]
    with socket.create_connection((host, port), timeout=5):
        pass


def open_socket(family: int, kind: int, protocol: int = 0) -> None:
    socket.socket(family, kind, protocol).close()


def mount_tmpfs() -> None:
    call("mount", b"none", b"/mnt", b"tmpfs", 0, 0)
    call("umount2", b"/mnt", 2)


def remount_root_writable() -> None:
    call("unshare", CLONE_NEW["mnt"])
    call("mount", b"none", b"/", 0, 0x1000 | 0x20, 0)


def ptrace_launcher() -> None:
    call("ptrace", 0x4206, TARGETS["launcher"], 0, 0)  # PTRACE_SEIZE; ends with the process that did it


def read_memory(pid: int) -> None:
    address = int(Path(f"/proc/{pid}/maps").read_text().split("-")[0], 16)
    buffer = ctypes.create_string_buffer(8)
    local = (ctypes.c_size_t * 2)(ctypes.addressof(buffer), 8)
    remote = (ctypes.c_size_t * 2)(address, 8)
    call("process_vm_readv", pid, local, 1, remote, 1, 0)


def read_memory_blindly() -> None:
    """Without /proc: the kernel looks at the process before it looks at the address."""
    buffer = ctypes.create_string_buffer(8)
    vector = (ctypes.c_size_t * 2)(ctypes.addressof(buffer), 8)
    call("process_vm_readv", os.getpid(), vector, 1, vector, 1, 0)


def steal_descriptor() -> None:
    pidfd = call("pidfd_open", TARGETS["launcher"], 0)
    os.close(call("pidfd_getfd", pidfd, 0, 0))
    os.close(pidfd)


def steal_descriptor_of_parent() -> None:
    pidfd = call("pidfd_open", os.getpid(), 0)
    os.close(call("pidfd_getfd", pidfd, 0, 0))


def clone_namespace(flag: int) -> None:
    pid = call("clone", flag | signal.SIGCHLD, 0, 0, 0, 0)
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)


def clone_for_parent() -> None:
    """A child for the process above, which in a task is the launcher."""
    if call("clone", CLONE_PARENT | signal.SIGCHLD, 0, 0, 0, 0) == 0:
        os._exit(0)


def enter_namespace() -> None:
    fd = os.open("/proc/self/ns/uts", os.O_RDONLY)
    try:
        call("setns", fd, 0)
    finally:
        os.close(fd)


def make_device() -> None:
    path = f"/tmp/device-{os.getpid()}"
    os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, 3))
    os.unlink(path)


def set_uid_file() -> None:
    path = f"/tmp/suid-{os.getpid()}"
    write = os.open(path, os.O_CREAT | os.O_WRONLY, 0o755)
    os.close(write)
    try:
        os.chmod(path, 0o4755)
    finally:
        os.unlink(path)


def set_uid_file_at_creation() -> None:
    path = f"/tmp/suid-{os.getpid()}"
    os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o4755))
    os.unlink(path)


def push_terminal_input() -> None:
    """Into a terminal of its own; ENOTTY is no refusal of the request but of /dev/null."""
    leader, follower = os.openpty()
    os.setsid()
    fcntl.ioctl(follower, 0x540E, 0)  # TIOCSCTTY
    fcntl.ioctl(follower, 0x5412, b"x")  # TIOCSTI


def set_clock() -> None:
    now = time.clock_gettime_ns(time.CLOCK_REALTIME)
    call("clock_settime", 0, (ctypes.c_long * 2)(now // 10**9, now % 10**9))


def set_host_name() -> None:
    name = os.uname().nodename.encode()
    call("sethostname", name, len(name))


def own_cgroup() -> None:
    for folder in Path("/sys/fs/cgroup").rglob("cgroup.procs"):
        with folder.open("w") as file:
            file.write("0")
        return
    raise OSError(errno.ENOENT, "no cgroups in sight")


ATTACKS: dict[str, Callable[[], object]] = {
    "1 read /etc/shadow": lambda: read_file("/etc/shadow"),
    "1 read the launcher's settings": lambda: read_file("/run/clupy/launcher.settings"),
    "1 read the configuration": lambda: read_file("/etc/clupy/clupy.server.yaml"),
    "2 write /usr": lambda: write_file("/usr/attack"),
    "2 write /etc": lambda: write_file("/etc/attack"),
    "2 write /var": lambda: write_file("/var/attack"),
    "2 write /run": lambda: write_file("/run/attack"),
    "2 write the packages": lambda: write_file(f"{Path(__file__).parent}/attack"),
    "4 reach PID 1's files": lambda: read_file("/proc/1/root/etc/hostname"),
    "5 chroot": lambda: in_child(lambda: call("chroot", b"/usr")),
    "6 mount": mount_tmpfs,
    "6 remount / writable": lambda: in_child(remount_root_writable),
    "6 fsopen": lambda: os.close(call("fsopen", b"tmpfs", 0)),
    "6 open_tree": lambda: os.close(call("open_tree", -100, b"/", 1)),
    "7 mknod": make_device,
    "8 chmod u+s": set_uid_file,
    "8 create a set-uid file": set_uid_file_at_creation,
    "10 signal PID 1": lambda: os.kill(1, 0),
    "10 signal the launcher": lambda: os.kill(TARGETS["launcher"], 0),
    "11 ptrace the launcher": lambda: in_child(ptrace_launcher),
    "11 process_vm_readv of PID 1": lambda: read_memory(1),
    "11 process_vm_readv at all": read_memory_blindly,
    "11 pidfd_getfd of the launcher": steal_descriptor,
    "11 pidfd_getfd at all": steal_descriptor_of_parent,
    "12 PID 1's environment": lambda: read_file("/proc/1/environ"),
    "12 PID 1's memory": lambda: read_file("/proc/1/maps"),
    "14 TIOCSTI": lambda: in_child(push_terminal_input),
    **{f"19 unshare {name}": (lambda flag=flag: in_child(lambda: call("unshare", flag)))  # type: ignore[misc]
       for name, flag in CLONE_NEW.items()},
    **{f"19 clone {name}": (lambda flag=flag: clone_namespace(flag)) for name, flag in CLONE_NEW.items()},  # type: ignore[misc]
    "19 clone for the parent": lambda: in_child(clone_for_parent),
    "19 setns": enter_namespace,
    "21 personality": lambda: in_child(lambda: call("personality", 0x0040000)),
    "21 modify_ldt": lambda: call("modify_ldt", 0, ctypes.create_string_buffer(64), 64),
    "22 AF_PACKET": lambda: open_socket(socket.AF_PACKET, socket.SOCK_RAW),
    "22 AF_NETLINK": lambda: open_socket(socket.AF_NETLINK, socket.SOCK_RAW),
    "22 raw": lambda: open_socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP),
    "23 clock_settime": set_clock,
    "23 sethostname": set_host_name,
    "23 read the kernel's log": lambda: call("syslog", 3, ctypes.create_string_buffer(64), 64),
    "25 the cgroups": own_cgroup,
    "33 a TCP service of the node": connect_tcp,
    "33 an abstract socket of the node": lambda: connect_unix("\0" + TARGETS["abstract"]),
    "35 the launcher's socket": lambda: connect_unix("/run/clupy/launcher.sock", socket.SOCK_SEQPACKET),
    "37 D-Bus": lambda: connect_unix("/run/dbus/system_bus_socket"),
    "37 systemd's private socket": lambda: connect_unix("/run/systemd/private"),
    "37 the journal": lambda: connect_unix("/run/systemd/journal/socket", socket.SOCK_DGRAM),
    "37 the journal's streams": lambda: connect_unix("/run/systemd/journal/stdout"),
}


def attempt(attack: Callable[[], Any]) -> str:
    try:
        attack()
    except OSError as error:
        return errno.errorcode.get(error.errno or 0, str(error))
    except Exception as error:
        return repr(error)
    return "done"


RESULTS = {name: attempt(attack) for name, attack in ATTACKS.items()}

if __name__ == "__main__":
    json.dump(RESULTS, sys.stdout)
