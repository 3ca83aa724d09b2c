//! Imports of loaded ELF libraries: the slots with the addresses of the functions that a library calls elsewhere.

use std::ffi::{CStr, c_int, c_void};
use std::sync::atomic::{AtomicPtr, Ordering};

// Constants of the generic ABI of System V, and of its processor supplements.
const DT_PLTRELSZ: i64 = 2;
const DT_STRTAB: i64 = 5;
const DT_SYMTAB: i64 = 6;
const DT_RELA: i64 = 7;
const DT_RELASZ: i64 = 8;
const DT_JMPREL: i64 = 23;
/// Relocations that hold only the address of a symbol: those of calls, and of pointers to functions.
const ADDRESSES: &[u32] = if cfg!(target_arch = "x86_64") {
    &[6, 7]
} else if cfg!(target_arch = "aarch64") {
    &[1025, 1026]
} else {
    &[]
};

#[repr(C)]
struct Dyn {
    tag: i64,
    value: usize,
}

#[repr(C)]
struct Rela {
    offset: usize,
    info: u64,
    addend: i64,
}

/// A loaded object: its address and its headers.
struct Object {
    base: usize,
    headers: &'static [libc::Elf64_Phdr],
}

/// An import that is redirected until this is dropped.
pub(super) struct Replaced {
    slot: &'static AtomicPtr<c_void>,
    original: *mut c_void,
    read_only: bool,
}

/// Redirects the import `name` of the object that contains `inside` to `to`. `None` if it has no such import.
pub(super) fn replace(inside: *const c_void, name: &CStr, to: *mut c_void) -> Option<Replaced> {
    let object = object_around(inside as usize)?;
    let slot = slot(&object, name)?;
    let read_only = object.is_read_only(std::ptr::from_ref(slot) as usize);
    let original = slot.load(Ordering::Relaxed);
    write(slot, to, read_only).then_some(Replaced { slot, original, read_only })
}

impl Drop for Replaced {
    fn drop(&mut self) {
        // It succeeded on the same page before. If it fails, the other function stays, and answers as `getenv` does.
        write(self.slot, self.original, self.read_only);
    }
}

/// Stores a pointer on a page that the loader may have protected after filling it.
fn write(slot: &AtomicPtr<c_void>, to: *mut c_void, read_only: bool) -> bool {
    let page = page();
    let start = (std::ptr::from_ref(slot) as usize & !(page - 1)) as *mut c_void;
    // SAFETY: the page belongs to the library's data and stays readable throughout, so readers find what they expect.
    // Only this function writes to it.
    let protect = |flags: c_int| unsafe { libc::mprotect(start, page, flags) == 0 };
    if read_only && !protect(libc::PROT_READ | libc::PROT_WRITE) {
        return false;
    }
    slot.store(to, Ordering::Release);
    if read_only {
        protect(libc::PROT_READ);
    }
    true
}

fn page() -> usize {
    // SAFETY: sysconf only reports.
    usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).unwrap_or(4096)
}

/// The loaded object whose segments hold `address`.
fn object_around(address: usize) -> Option<Object> {
    struct Search {
        address: usize,
        found: Option<Object>,
    }
    unsafe extern "C" fn visit(info: *mut libc::dl_phdr_info, _: usize, search: *mut c_void) -> c_int {
        // SAFETY: the loader passes a description that is valid during the call, and the pointer given below.
        let (info, search) = unsafe { (&*info, &mut *search.cast::<Search>()) };
        // SAFETY: the headers belong to the object. The one that is kept is ONNX Runtime, which is never unloaded.
        let headers = unsafe { std::slice::from_raw_parts(info.dlpi_phdr, info.dlpi_phnum.into()) };
        let object = Object { base: info.dlpi_addr as usize, headers };
        if !object.holds(libc::PT_LOAD, search.address) {
            return 0;
        }
        search.found = Some(object);
        1
    }
    let mut search = Search { address, found: None };
    // SAFETY: `visit` has the required type, and `search` outlives the call.
    unsafe { libc::dl_iterate_phdr(Some(visit), (&raw mut search).cast()) };
    search.found
}

impl Object {
    fn segments(&self, kind: u32) -> impl Iterator<Item = (usize, usize)> {
        let of = move |header: &&libc::Elf64_Phdr| header.p_type == kind;
        self.headers.iter().filter(of).map(|header| (self.base + header.p_vaddr as usize, header.p_memsz as usize))
    }

    fn holds(&self, kind: u32, address: usize) -> bool {
        self.segments(kind).any(|(start, size)| address.wrapping_sub(start) < size)
    }

    /// Whether the loader has protected the address's page. It doesn't protect a last page that would be protected only
    /// in part.
    fn is_read_only(&self, address: usize) -> bool {
        let whole = !(page() - 1);
        self.segments(libc::PT_GNU_RELRO)
            .any(|(start, size)| (start & whole..(start + size) & whole).contains(&address))
    }

    /// The entry `tag` of the dynamic section.
    fn entry(&self, tag: i64) -> Option<usize> {
        let (mut at, size) = self.segments(libc::PT_DYNAMIC).next()?;
        let end = at + size;
        while at < end {
            // SAFETY: the section is an array of such entries, mapped as long as the library is.
            let entry = unsafe { &*(at as *const Dyn) };
            match entry.tag {
                0 => return None,
                found if found == tag => return Some(entry.value),
                _ => at += size_of::<Dyn>(),
            }
        }
        None
    }

    /// An entry that is an address. Some loaders leave it relative to the object.
    fn address(&self, tag: i64) -> Option<usize> {
        self.entry(tag).map(|value| if value < self.base { value + self.base } else { value })
    }
}

/// The slot in which the object keeps the address of `name`.
fn slot(object: &Object, name: &CStr) -> Option<&'static AtomicPtr<c_void>> {
    let (symbols, strings) = (object.address(DT_SYMTAB)?, object.address(DT_STRTAB)?);
    let tables = [(DT_JMPREL, DT_PLTRELSZ), (DT_RELA, DT_RELASZ)];
    let tables = tables.into_iter().filter_map(|(table, size)| Some((object.address(table)?, object.entry(size)?)));
    for (table, size) in tables {
        // SAFETY: the dynamic section has the table's address and length, and the loader has already processed it.
        let entries = unsafe { std::slice::from_raw_parts(table as *const Rela, size / size_of::<Rela>()) };
        let names = |entry: &&Rela| {
            let symbol = symbols + (entry.info >> 32) as usize * size_of::<libc::Elf64_Sym>();
            // SAFETY: the loader has looked up the same symbol by the same name.
            let found = unsafe {
                CStr::from_ptr(
                    (strings as *const std::ffi::c_char).add((*(symbol as *const libc::Elf64_Sym)).st_name as usize),
                )
            };
            ADDRESSES.contains(&(entry.info as u32)) && found == name
        };
        if let Some(entry) = entries.iter().find(names) {
            // SAFETY: such a relocation names a pointer in the library's data, which is aligned and stays mapped.
            return Some(unsafe { &*((object.base + entry.offset) as *const AtomicPtr<c_void>) });
        }
    }
    None
}
