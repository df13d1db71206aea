//! Which queue of a TAP a frame goes to: its worker by its flow, and of that worker's queues one by its source.
//!
//! ```text
//! IPv4   addresses, and ports of TCP and UDP unless the packet is a fragment   ─▶ hash
//! IPv6   addresses, and ports of TCP and UDP unless another header is between  ─▶ hash   worker = hash mod workers
//! other  nothing                                                               ─▶ 0
//!
//! any    source address of Ethernet                                            ─▶ hash   queue = hash mod queues of a worker
//! ```
//!
//! By itself the kernel moves a flow to the queue that its answers were last written to, so that frames overtake each
//! other; and its hash of a socket changes when TCP has lost something. A program that looks at nothing but the frame
//! does neither. Tags of VLANs are not in the frame but beside it; a second one makes it "other".
//!
//! The source parts containers: one that sends more than is carried fills its own queue, and not its neighbours'.
//!
//! INVARIANT: the answer depends on the frame and the layout of the device alone.

#[cfg(test)]
mod tests;

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use weaved_core::wire::ethernet::ethertype::{IPV4, IPV6};

use crate::{
    asm::{Assembler, Helper, Label, Register, Width},
    sys::bpf::{self, Map, MapKind, ProgramKind},
};

/// Odd, and without a pattern in its bits (the multiplier of `MurmurHash2`).
const MULTIPLIER: i32 = 0x5bd1_e995;

const ETHERNET_LEN: i32 = 14;
const SOURCE_OFFSET: i32 = 6;
const SOURCE_LEN: i32 = 6;
const ETHER_TYPE_OFFSET: i32 = 12;
const IPV4_LEN: i32 = 20;
const IPV6_LEN: i32 = 40;
const TCP: i32 = 6;
const UDP: i32 = 17;
/// "More fragments", and the offset of this one (RFC 791 §3.1).
const FRAGMENT_BITS: u16 = 0x3fff;

/// Where on the stack headers are copied to, and the two or four bytes that are looked at one by one.
const HEADER_AT: i16 = -48;
const SCRATCH_AT: i16 = -8;

/// The program, in the kernel, and the layout that it goes by.
#[derive(Debug)]
pub(crate) struct Steering {
    program: OwnedFd,
    layout: Map<4, LAYOUT_BYTES>,
}

/// The queues of a TAP: those of the first worker, then those of the second, …
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Workers; at least one.
    pub worker_count: usize,
    /// Queues that each of them has; at least one.
    pub queues_per_worker: usize,
}

/// Two numbers of 32 bits.
const LAYOUT_BYTES: usize = 8;

/// The kernel does not steer by our program.
#[derive(Clone, Debug, Default, thiserror::Error)]
#[error("the kernel does not take the program that keeps a flow on its queue{0}")]
pub struct Unsteered(String);

impl Layout {
    /// One worker with one queue, which needs no program.
    pub(crate) const SINGLE: Self = Self { worker_count: 1, queues_per_worker: 1 };

    /// All queues.
    pub(crate) const fn queue_count(self) -> usize {
        self.worker_count * self.queues_per_worker
    }
}

impl Steering {
    /// Has the kernel take the program. Needs rights (`CAP_BPF`) that nothing needs later.
    pub(crate) fn load() -> Result<Self, Unsteered> {
        Self::load_with(&mut []).map_err(|error| Unsteered(format!(": {error}")))
    }

    fn load_with(log: &mut [u8]) -> io::Result<Self> {
        let layout = Map::create(MapKind::Array, c"weaved_layout", 1)?;
        let program = bpf::load_program(ProgramKind::Filter, c"weaved_steering", &program(layout.as_fd()), log)?;
        Ok(Self { program, layout })
    }

    /// What the verifier says, for a test that wants to know why it refuses the program.
    #[cfg(test)]
    fn complaint() -> String {
        let mut log = vec![0; 1 << 20];
        let outcome = Self::load_with(&mut log);
        format!("{outcome:?}\n{}", String::from_utf8_lossy(&log).trim_end_matches('\0'))
    }

    /// The program, from here on for queues that are laid out so.
    pub(super) fn with_layout(&self, layout: Layout) -> io::Result<BorrowedFd<'_>> {
        let mut value = [0; LAYOUT_BYTES];
        value[..4].copy_from_slice(&(layout.worker_count as u32).to_ne_bytes());
        value[4..].copy_from_slice(&(layout.queues_per_worker as u32).to_ne_bytes());
        self.layout.insert(&[0; 4], &value)?;
        Ok(self.program.as_fd())
    }
}

/// `r6` = the frame, `r7` = the hash, `r8` = where the ports are, `r9` = the hash of the source.
fn program(layout: BorrowedFd<'_>) -> Vec<u64> {
    let mut code = Assembler::default();
    let (ipv6, ports, end) = (code.label(), code.label(), code.label());
    code.copy(Register::R6, Register::R1);
    hash_source(&mut code);
    code.set(Register::R7, 0);
    code.load_map_value(Register::R2, layout);
    code.load(Width::Word, Register::R2, Register::R2, 0);
    // One worker has all flows.
    code.jump_if_equal(Register::R2, 1, end);
    code.set(Register::R2, ETHER_TYPE_OFFSET);
    copy_from_frame(&mut code, SCRATCH_AT, 2, end);
    code.load(Width::Half, Register::R2, Register::R10, SCRATCH_AT);
    code.jump_if_equal(Register::R2, as_loaded(IPV6), ipv6);
    code.jump_if_not_equal(Register::R2, as_loaded(IPV4), end);
    hash_ipv4(&mut code, ports, end);
    code.place(ipv6);
    hash_ipv6(&mut code, end);
    code.place(ports);
    code.copy(Register::R2, Register::R8);
    copy_from_frame(&mut code, SCRATCH_AT, 4, end);
    mix(&mut code, Width::Word, SCRATCH_AT);
    code.place(end);
    // queue = flow mod workers * queues of each + source mod queues of each
    code.load_map_value(Register::R1, layout);
    code.load(Width::Word, Register::R2, Register::R1, 0);
    code.load(Width::Word, Register::R3, Register::R1, 4);
    code.modulo(Register::R7, Register::R2);
    code.multiply_register(Register::R7, Register::R3);
    code.modulo(Register::R9, Register::R3);
    code.copy(Register::R0, Register::R7);
    code.add_register(Register::R0, Register::R9);
    code.exit();
    code.finish()
}

/// A frame that has no source gets that of zeroes.
fn hash_source(code: &mut Assembler) {
    let short = code.label();
    code.set(Register::R7, 0);
    code.set(Register::R2, SOURCE_OFFSET);
    copy_from_frame(code, SCRATCH_AT, SOURCE_LEN, short);
    mix(code, Width::Word, SCRATCH_AT);
    mix(code, Width::Half, SCRATCH_AT + 4);
    code.place(short);
    code.copy(Register::R9, Register::R7);
}

/// Ends with a jump, to `ports` when there are any.
fn hash_ipv4(code: &mut Assembler, ports: Label, end: Label) {
    code.set(Register::R2, ETHERNET_LEN);
    copy_from_frame(code, HEADER_AT, IPV4_LEN, end);
    for offset in [12, 16] {
        mix(code, Width::Word, HEADER_AT + offset);
    }
    code.load(Width::Half, Register::R2, Register::R10, HEADER_AT + 6);
    code.and_value(Register::R2, as_loaded(FRAGMENT_BITS));
    code.jump_if_not_equal(Register::R2, 0, end);
    // The length of the header in words.
    code.load(Width::Byte, Register::R8, Register::R10, HEADER_AT);
    code.and_value(Register::R8, 0x0f);
    code.shift_left(Register::R8, 2);
    code.add(Register::R8, ETHERNET_LEN);
    code.load(Width::Byte, Register::R2, Register::R10, HEADER_AT + 9);
    code.jump_if_equal(Register::R2, TCP, ports);
    code.jump_if_equal(Register::R2, UDP, ports);
    code.go_to(end);
}

/// Goes on behind it when there are ports.
fn hash_ipv6(code: &mut Assembler, end: Label) {
    let with_ports = code.label();
    code.set(Register::R2, ETHERNET_LEN);
    copy_from_frame(code, HEADER_AT, IPV6_LEN, end);
    for offset in (8..40).step_by(4) {
        mix(code, Width::Word, HEADER_AT + offset);
    }
    code.set(Register::R8, ETHERNET_LEN + IPV6_LEN);
    code.load(Width::Byte, Register::R2, Register::R10, HEADER_AT + 6);
    code.jump_if_equal(Register::R2, TCP, with_ports);
    code.jump_if_not_equal(Register::R2, UDP, end);
    code.place(with_ports);
}

/// Copies `len` bytes from the offset in `r2` to the stack, or goes to `short` when the frame has not so many.
fn copy_from_frame(code: &mut Assembler, to: i16, len: i32, short: Label) {
    code.copy(Register::R1, Register::R6);
    code.copy(Register::R3, Register::R10);
    code.add(Register::R3, to.into());
    code.set(Register::R4, len);
    code.call(Helper::LoadBytes);
    code.jump_if_not_equal(Register::R0, 0, short);
}

/// Adds what is at this place of the stack to the hash. The upper half comes down each time, because the queue is chosen
/// by the lowest bits.
fn mix(code: &mut Assembler, width: Width, at: i16) {
    code.load(width, Register::R2, Register::R10, at);
    code.xor(Register::R7, Register::R2);
    code.multiply(Register::R7, MULTIPLIER);
    code.copy(Register::R2, Register::R7);
    code.shift_right(Register::R2, 32);
    code.xor(Register::R7, Register::R2);
}

/// A number of a packet as a load gives it, in the machine's byte order.
fn as_loaded(number: u16) -> i32 {
    u16::from_ne_bytes(number.to_be_bytes()).into()
}
