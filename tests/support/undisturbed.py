"""``python undisturbed.py PROGRAM [ARGUMENTS]``: a program that no change of network interfaces can disturb.

Chromium aborts its requests with ``net::ERR_NETWORK_CHANGED`` when an interface appears or disappears, which
live tests and Docker cause all the time. It learns of that from a netlink socket. Here the kernel refuses it
one, by a seccomp filter that needs no privilege; Chromium then assumes that the network does not change.
"""

import ctypes
import os
import platform
import socket
import struct
import sys

SOCKET = {"x86_64": 41, "aarch64": 198}
"""The number of the system call ``socket``."""
LOAD, EQUAL, RETURN = 0x20, 0x15, 0x06
NUMBER, FIRST_ARGUMENT = 0, 16
ALLOWED, REFUSED = 0x7FFF0000, 0x00050000
NO_NEW_PRIVILEGES, SECCOMP, FILTER = 38, 22, 2
NO_SUCH_FAMILY = 97


class Program(ctypes.Structure):
    """The kernel's ``sock_fprog``."""

    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_void_p))


def refuse_netlink():
    """From now on this process and those that it starts get no netlink socket."""
    instructions = (
        (LOAD, 0, 0, NUMBER),
        (EQUAL, 0, 3, SOCKET[platform.machine()]),
        (LOAD, 0, 0, FIRST_ARGUMENT),
        (EQUAL, 0, 1, socket.AF_NETLINK),
        (RETURN, 0, 0, REFUSED | NO_SUCH_FAMILY),
        (RETURN, 0, 0, ALLOWED),
    )
    text = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *one) for one in instructions))
    program = Program(len(instructions), ctypes.addressof(text))
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    if prctl(NO_NEW_PRIVILEGES, 1, 0, 0, 0) or prctl(SECCOMP, FILTER, ctypes.byref(program)):
        raise OSError(ctypes.get_errno(), "the kernel takes no seccomp filter")


if __name__ == "__main__":
    refuse_netlink()
    os.execv(sys.argv[1], sys.argv[1:])  # noqa: S606 - there is no shell on purpose
