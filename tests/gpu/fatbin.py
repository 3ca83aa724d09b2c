"""Cut a CUDA library down to the machine code of one GPU architecture.

A library built by nvcc holds its kernels in the ELF section `.nv_fatbin`, once for each architecture. The section is a
row of containers; a container holds entries, each the kernels of one source file for one architecture:

    container   u32 magic 0xBA55ED50, u16 version, u16 header size, u64 body size, then the body
    entry       u16 kind (2: machine code), u16 version, u32 header size, u64 payload size, …, u32 architecture at 28

`keep_architecture` moves the wanted entries of each container to its front, sets the body's size to them, and fills the
rest with zeros. No address and no file size changes, so the host code finds its containers where it expects them, and
the zeros compress to nothing. A container without the wanted architecture stays as it is.
"""

import struct

CONTAINER_MAGIC = 0xBA55ED50
MACHINE_CODE = 2


def keep_architecture(library: bytearray, architecture: int) -> dict:
    """Cut `library` in place; `architecture` is 90 for sm_90 and sm_90a. Returns the counts of entries and containers."""
    start, size = _section(library, b".nv_fatbin")
    counts = {"kept": 0, "dropped": 0, "containers": 0, "untouched": 0}
    at = start
    while at + 16 <= start + size:
        magic, _version, header, body = struct.unpack_from("<IHHQ", library, at)
        if magic != CONTAINER_MAGIC:
            at += 8  # padding between containers
            continue
        first, end = at + header, at + header + body
        wanted, dropped = _entries(library, first, end, architecture)
        counts["containers"] += 1
        if wanted:
            kept = b"".join(wanted)
            library[first:end] = kept + bytes(body - len(kept))
            struct.pack_into("<Q", library, at + 8, len(kept))
            counts["kept"] += len(wanted)
            counts["dropped"] += dropped
        else:
            counts["untouched"] += 1
        at = end
    if not counts["kept"]:
        raise ValueError(f"the library holds no machine code for architecture {architecture}")
    return counts


def _entries(library, at, end, architecture):
    wanted, dropped = [], 0
    while at < end:
        kind, _version, header, payload = struct.unpack_from("<HHIQ", library, at)
        (entry_architecture,) = struct.unpack_from("<I", library, at + 28)
        if kind == MACHINE_CODE and entry_architecture == architecture:
            wanted.append(bytes(library[at : at + header + payload]))
        else:
            dropped += 1
        at += header + payload
    return wanted, dropped


def _section(library, wanted):
    """Offset and size of a section of a 64-bit little-endian ELF file."""
    if bytes(library[:6]) != b"\x7fELF\x02\x01":
        raise ValueError("not a 64-bit little-endian ELF file")
    (table,) = struct.unpack_from("<Q", library, 0x28)
    count, names_index = struct.unpack_from("<HH", library, 0x3C)
    sections = [struct.unpack_from("<IIQQQQIIQQ", library, table + 64 * i) for i in range(count)]
    names = sections[names_index][4]
    for section in sections:
        name_at = names + section[0]
        if bytes(library[name_at : library.index(0, name_at)]) == wanted:
            return section[4], section[5]
    raise ValueError(f"the library has no section {wanted.decode()}")
