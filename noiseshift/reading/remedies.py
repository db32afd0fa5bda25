"""What to do about an error of the system."""

from __future__ import annotations

import errno

REMEDIES = {
    errno.ENOSPC: "free some space, or write to another disk",
    errno.EDQUOT: "free some of your quota, or write to another disk",
    errno.EFBIG: "write to a file system that takes larger files",
    errno.EROFS: "write somewhere else",
    errno.EACCES: "change its permissions, or name another place",
    errno.EPERM: "change its permissions, or name another place",
    errno.EISDIR: "name a file, not a folder",
    errno.ENOTDIR: "name a folder: a part of this path is a file",
    errno.ENOENT: "check the path",
    errno.EEXIST: "move it away, or name another place",
    errno.ENOTEMPTY: "another process writes there: wait for it, or name another place",
    errno.EMFILE: "allow more open files (ulimit -n 4096)",
    errno.ENFILE: "the machine has too many open files: close some programs",
    errno.ENAMETOOLONG: "take a shorter name",
    errno.ELOOP: "its links go round in a circle: name the real path",
    errno.EINVAL: "the name or the file system does not allow this: name another place",
    errno.EBADF: "open it for writing, or send the output elsewhere",
    errno.EIO: "the disk or the network drive failed: check it, or use another one",
    errno.ESTALE: "the network drive lost the file: run the command again",
    errno.ETXTBSY: "another program uses the file: end it first",
    errno.EBUSY: "another program uses it: end it first",
    errno.ENXIO: "name a regular file, not a device or a socket",
    errno.ENODEV: "name a regular file, not a device",
    errno.EAGAIN: "the machine is at its limit of processes or memory: end some, then run it again",
    errno.ENOMEM: "take a smaller --batch, or end other programs",
    errno.EADDRINUSE: "another process uses that port: give torchrun --standalone, or another --master-port",
    errno.EADDRNOTAVAIL: "check the address that was given to torchrun",
}
"""What to do about an error of the system, whatever was done when it came up."""

NO_FAULT_OF_THE_FILE = {errno.EACCES, errno.EPERM, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN, errno.ESTALE}
"""What it would not help against to make a file anew."""
