//! The bpf(2) system call: maps, programs, links.
//!
//! Each function is one command with the attributes of `union bpf_attr` that it uses, in the kernel's layout. What
//! is not named is zero, which the kernel takes for "not used". Everything that a function makes lives as long as its
//! descriptor: when the process ends, however it ends, nothing of it is left.

use std::{
    ffi::{CStr, c_int, c_long},
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
};

const BPF_MAP_CREATE: c_long = 0;
const BPF_MAP_LOOKUP_ELEM: c_long = 1;
const BPF_MAP_UPDATE_ELEM: c_long = 2;
const BPF_MAP_DELETE_ELEM: c_long = 3;
const BPF_PROG_LOAD: c_long = 5;
const BPF_PROG_QUERY: c_long = 16;
const BPF_LINK_CREATE: c_long = 28;

/// Names that the kernel shows for a map or a program: at most 15 bytes.
const NAME_BYTES: usize = 16;

/// The kinds of map that are used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MapKind {
    /// `BPF_MAP_TYPE_HASH`, whose entries take memory only while they are there.
    Hash,
    /// `BPF_MAP_TYPE_ARRAY`.
    Array,
}

/// The kinds of program that are used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ProgramKind {
    /// `BPF_PROG_TYPE_SOCKET_FILTER`: looks at a frame and answers a number.
    Filter = 1,
    /// `BPF_PROG_TYPE_SCHED_CLS`: decides where a frame goes on a device.
    Tc = 3,
}

/// Where a program can be attached to a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AttachPoint {
    /// `BPF_TCX_INGRESS`: what comes in by the device.
    Ingress = 46,
    /// `BPF_TCX_EGRESS`: what leaves by the device.
    Egress = 47,
}

/// A map whose keys have `K` and whose values have `V` bytes.
#[derive(Debug)]
pub(crate) struct Map<const K: usize, const V: usize>(OwnedFd);

#[repr(C)]
struct CreateMap {
    map_type: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
    map_flags: u32,
    inner_map_fd: u32,
    numa_node: u32,
    name: [u8; NAME_BYTES],
}

#[repr(C)]
struct Element {
    map: RawFd,
    padding: u32,
    key: u64,
    value: u64,
    flags: u64,
}

#[repr(C)]
struct LoadProgram {
    kind: u32,
    instruction_count: u32,
    instructions: u64,
    license: u64,
    log_level: u32,
    log_len: u32,
    log: u64,
    kernel_version: u32,
    flags: u32,
    name: [u8; NAME_BYTES],
}

#[repr(C)]
struct CreateLink {
    program: RawFd,
    target_index: u32,
    attach_type: u32,
    flags: u32,
    /// `tcx`: relative to which other program, and the revision expected. Zero: behind the others, whatever they are.
    relative: u64,
    expected_revision: u64,
}

/// The kernel writes into all of it, whatever length it is told.
#[repr(C)]
#[derive(Default)]
struct QueryPrograms {
    target_index: u32,
    attach_type: u32,
    query_flags: u32,
    attach_flags: u32,
    program_ids: u64,
    program_count: u32,
    padding: u32,
    program_attach_flags: u64,
    link_ids: u64,
    link_attach_flags: u64,
    revision: u64,
}

impl<const K: usize, const V: usize> Map<K, V> {
    /// Makes a map with room for so many entries.
    pub(crate) fn create(kind: MapKind, name: &CStr, max_entries: u32) -> io::Result<Self> {
        let (map_type, map_flags) = match kind {
            // BPF_F_NO_PREALLOC
            MapKind::Hash => (1, 1),
            MapKind::Array => (2, 0),
        };
        let mut attributes = CreateMap {
            map_type,
            key_size: K as u32,
            value_size: V as u32,
            max_entries,
            map_flags,
            inner_map_fd: 0,
            numa_node: 0,
            name: emit_name(name),
        };
        // SAFETY: the attributes are those of this command and hold no pointer.
        let fd = unsafe { bpf(BPF_MAP_CREATE, &mut attributes) }?;
        // SAFETY: the kernel has just given us this descriptor and nobody else knows it.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// Adds an entry or replaces its value.
    pub(crate) fn insert(&self, key: &[u8; K], value: &[u8; V]) -> io::Result<()> {
        let mut attributes = self.element(key, value.as_ptr() as u64);
        // SAFETY: key and value outlive the call and have the lengths that the map was made with; both are only read.
        unsafe { bpf(BPF_MAP_UPDATE_ELEM, &mut attributes) }?;
        Ok(())
    }

    /// Removes an entry. One that is not there is no error.
    pub(crate) fn remove(&self, key: &[u8; K]) -> io::Result<()> {
        let mut attributes = self.element(key, 0);
        // SAFETY: the key outlives the call and has the length that the map was made with; it is only read.
        match unsafe { bpf(BPF_MAP_DELETE_ELEM, &mut attributes) } {
            Err(error) if error.raw_os_error() != Some(libc::ENOENT) => Err(error),
            _ => Ok(()),
        }
    }

    /// The value of a key; none if there is none.
    pub(crate) fn get(&self, key: &[u8; K]) -> Option<[u8; V]> {
        let mut value = [0; V];
        let mut attributes = self.element(key, value.as_mut_ptr() as u64);
        // SAFETY: key and value outlive the call and have the lengths that the map was made with. The map is of no
        // kind that answers with a value for each processor.
        unsafe { bpf(BPF_MAP_LOOKUP_ELEM, &mut attributes) }.ok()?;
        Some(value)
    }

    fn element(&self, key: &[u8; K], value: u64) -> Element {
        Element { map: self.0.as_raw_fd(), padding: 0, key: key.as_ptr() as u64, value, flags: 0 }
    }
}

impl<const K: usize, const V: usize> AsFd for Map<K, V> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Has the kernel check and take a program. What the verifier says goes into `log`, unless that is empty.
pub(crate) fn load_program(
    kind: ProgramKind,
    name: &CStr,
    instructions: &[u64],
    log: &mut [u8],
) -> io::Result<OwnedFd> {
    let license = c"Apache-2.0";
    let mut attributes = LoadProgram {
        kind: kind as u32,
        instruction_count: instructions.len() as u32,
        instructions: instructions.as_ptr() as u64,
        license: license.as_ptr() as u64,
        log_level: u32::from(!log.is_empty()),
        log_len: log.len() as u32,
        log: if log.is_empty() { 0 } else { log.as_mut_ptr() as u64 },
        kernel_version: 0,
        flags: 0,
        name: emit_name(name),
    };
    // SAFETY: instructions, licence and log outlive the call; counts and lengths are theirs. Only the log is written.
    let fd = unsafe { bpf(BPF_PROG_LOAD, &mut attributes) }?;
    // SAFETY: the kernel has just given us this descriptor and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Attaches a program to a device of this network namespace, for as long as the returned descriptor is open.
pub(crate) fn attach(program: BorrowedFd<'_>, device: u32, point: AttachPoint) -> io::Result<OwnedFd> {
    let mut attributes = CreateLink {
        program: program.as_raw_fd(),
        target_index: device,
        attach_type: point as u32,
        flags: 0,
        relative: 0,
        expected_revision: 0,
    };
    // SAFETY: the attributes are those of this command and hold no pointer.
    let fd = unsafe { bpf(BPF_LINK_CREATE, &mut attributes) }?;
    // SAFETY: the kernel has just given us this descriptor and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// How many programs are attached to a device there, ours included.
pub(crate) fn attached_count(device: u32, point: AttachPoint) -> io::Result<u32> {
    let mut attributes = QueryPrograms { target_index: device, attach_type: point as u32, ..QueryPrograms::default() };
    // SAFETY: the attributes are those of this command, up to the last that it writes. Without buffers for ids and
    // flags it writes nowhere else.
    match unsafe { bpf(BPF_PROG_QUERY, &mut attributes) } {
        Ok(_) => Ok(attributes.program_count),
        // Nothing was ever attached there.
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(0),
        Err(error) => Err(error),
    }
}

/// The system call.
///
/// # Safety
///
/// `A` is the part of `union bpf_attr` that belongs to the command, and each address in it points to memory that
/// outlives the call and that the command may read or write as it does.
unsafe fn bpf<A>(command: c_long, attributes: &mut A) -> io::Result<c_int> {
    // SAFETY: the caller vouches for the attributes, and their size is the one given.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, &raw mut *attributes, size_of::<A>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result as c_int) }
}

fn emit_name(name: &CStr) -> [u8; NAME_BYTES] {
    let mut bytes = [0; NAME_BYTES];
    for (to, from) in bytes.iter_mut().take(NAME_BYTES - 1).zip(name.to_bytes()) {
        *to = *from;
    }
    bytes
}
