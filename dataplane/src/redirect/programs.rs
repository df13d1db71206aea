//! The two programs that let frames skip the bridge, and the maps that they look into.
//!
//! ```text
//!             on the ingress of each container's port      on the ingress of the TAP (what we write)
//! from        `local`: at this very port                   `remote`
//! to          `remote`                                     `local`
//! then        bpf_redirect(TAP)                            bpf_redirect_peer(port): straight into the container
//! otherwise   the bridge, as if there were no program
//! ```
//!
//! INVARIANT: a frame skips the bridge only if *both* its addresses are known where they are. So the bridge sees every
//! frame that it would learn something from: a new address, one that has moved, one that is forged.
//!
//! Only IP packets skip it: IPv4 between two addresses of the overlay's range, because that is what the host's rules
//! have been looked at for, and IPv6 where it may. Group addresses are in no map. ARP, frames with a VLAN tag and frames
//! that are too long for the container go to the bridge, which knows what to do with them.

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
};

use ipnet::Ipv4Net;
use weaved_api::MacAddr;
use weaved_core::{
    limits::MAX_MACS,
    wire::ethernet::ethertype::{IPV4, IPV6},
};

use crate::{
    asm::{Assembler, Helper, Label, Register, Width},
    sys::bpf::{self, AttachPoint, Map, MapKind, ProgramKind},
};

/// An Ethernet address, padded.
pub(super) const KEY_LEN: usize = 8;
/// Device and longest frame, 4 bytes each, in the machine's byte order.
pub(super) const VALUE_LEN: usize = 8;

/// What tells the kernel to go on as if there were no program (`TCX_NEXT`).
const GO_ON: i32 = -1;

// Fields of `struct __sk_buff` (linux/bpf.h).
const LEN: i16 = 0;
const VLAN_PRESENT: i16 = 20;
const DEVICE: i16 = 40;
const DATA: i16 = 76;
const DATA_END: i16 = 80;
const GSO_SIZE: i16 = 176;

/// Bytes of Ethernet's header and IPv4's.
const HEADERS_LEN: i32 = 14 + 20;
/// Where the type is, and the addresses of IPv4.
const ETHER_TYPE: i16 = 12;
const IPV4_SOURCE: i16 = 26;
const IPV4_DESTINATION: i16 = 30;

/// Where the two addresses are put on the stack as keys.
const DESTINATION_KEY: i16 = -8;
const SOURCE_KEY: i16 = -16;

/// A map from addresses to where they are.
pub(super) type Addresses = Map<KEY_LEN, VALUE_LEN>;
/// One number that a program adds to.
type Counter = Map<4, 8>;
/// One [`Scope`].
type ScopeMap = Map<4, SCOPE_LEN>;

/// Mask, network and whether IPv6 may, 4 bytes each.
const SCOPE_LEN: usize = 12;

/// Everything of the kernel's that redirecting takes, made but not attached to any device.
#[derive(Debug)]
pub(crate) struct Programs {
    /// Addresses behind the TAP.
    pub(super) remote: Addresses,
    /// Addresses of this host's containers.
    pub(super) local: Addresses,
    scope: ScopeMap,
    to_container_count: Counter,
    to_tap_count: Counter,
    to_container: OwnedFd,
    to_tap: OwnedFd,
}

/// This kernel lets no frame skip the bridge.
#[derive(Debug, thiserror::Error)]
#[error("the kernel does not take the programs for it: {0}")]
pub(crate) struct Unavailable(#[from] io::Error);

/// Where an address is, as a map holds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Whereabouts {
    /// The TAP, or the port of a container.
    pub(super) device: u32,
    /// Bytes of the longest frame that may go there whole, super-frames apart.
    pub(super) max_frame_len: u32,
}

/// Which packets may skip the bridge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Scope {
    /// IPv4 packets within this range.
    pub(super) range: Ipv4Net,
    /// IPv6 packets.
    pub(super) ipv6: Passage,
}

/// Whether packets may skip the bridge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Passage {
    /// They may.
    Free,
    /// They may not.
    Bridge,
}

impl Programs {
    /// Makes maps and programs. Takes rights (`CAP_BPF`) that nothing needs later.
    pub(crate) fn load() -> Result<Self, Unavailable> {
        let addresses = |name| Addresses::create(MapKind::Hash, name, MAX_MACS as u32);
        let counter = |name| Counter::create(MapKind::Array, name, 1);
        let (remote, local) = (addresses(c"weaved_remote")?, addresses(c"weaved_local")?);
        let (to_container_count, to_tap_count) = (counter(c"weaved_into")?, counter(c"weaved_out")?);
        let scope = ScopeMap::create(MapKind::Array, c"weaved_scope", 1)?;
        let maps = Maps { remote: &remote, local: &local, scope: &scope };
        let to_container = into_container(maps, &to_container_count);
        let to_tap = out_of_container(maps, &to_tap_count);
        Ok(Self {
            to_container: bpf::load_program(ProgramKind::Tc, c"weaved_into", &to_container, &mut [])?,
            to_tap: bpf::load_program(ProgramKind::Tc, c"weaved_out", &to_tap, &mut [])?,
            remote,
            local,
            scope,
            to_container_count,
            to_tap_count,
        })
    }

    /// Says which packets may skip the bridge. Both programs go by it from here on.
    pub(super) fn set_scope(&self, scope: Scope) -> io::Result<()> {
        self.scope.insert(&[0; 4], &scope.emit())
    }

    /// Lets frames from the TAP skip the bridge while the descriptor is open.
    pub(super) fn attach_to_tap(&self, device: u32) -> io::Result<OwnedFd> {
        bpf::attach(self.to_container.as_fd(), device, AttachPoint::Ingress)
    }

    /// Lets frames from a container skip the bridge while the descriptor is open.
    pub(super) fn attach_to_port(&self, device: u32) -> io::Result<OwnedFd> {
        bpf::attach(self.to_tap.as_fd(), device, AttachPoint::Ingress)
    }

    /// What the verifier says of the programs, for a test that wants to know why it refuses them.
    #[cfg(test)]
    pub(super) fn complaint() -> String {
        let addresses = |name| Addresses::create(MapKind::Hash, name, 1).unwrap();
        let (remote, local) = (addresses(c"remote"), addresses(c"local"));
        let scope = ScopeMap::create(MapKind::Array, c"scope", 1).unwrap();
        let count = Counter::create(MapKind::Array, c"count", 1).unwrap();
        let maps = Maps { remote: &remote, local: &local, scope: &scope };
        let programs = [into_container(maps, &count), out_of_container(maps, &count)];
        let complain = |program: &Vec<u64>| {
            let mut log = vec![0; 1 << 20];
            let outcome = bpf::load_program(ProgramKind::Tc, c"complaint", program, &mut log);
            format!("{outcome:?}\n{}\n", String::from_utf8_lossy(&log).trim_end_matches('\0'))
        };
        programs.iter().map(complain).collect()
    }

    /// Frames that went straight into a container.
    pub(super) fn to_container_count(&self) -> u64 {
        read(&self.to_container_count)
    }

    /// Frames that went straight to the TAP.
    pub(super) fn to_tap_count(&self) -> u64 {
        read(&self.to_tap_count)
    }
}

fn read(counter: &Counter) -> u64 {
    counter.get(&[0; 4]).map_or(0, u64::from_ne_bytes)
}

/// The key of an address.
pub(super) fn key(mac: MacAddr) -> [u8; KEY_LEN] {
    let mut key = [0; KEY_LEN];
    key[..6].copy_from_slice(&mac.0);
    key
}

impl Scope {
    /// The value of the only entry. Addresses are in the byte order of packets, so that they compare as they are.
    fn emit(self) -> [u8; SCOPE_LEN] {
        let mut value = [0; SCOPE_LEN];
        value[..4].copy_from_slice(&self.range.netmask().octets());
        value[4..8].copy_from_slice(&self.range.network().octets());
        value[8..].copy_from_slice(&u32::from(self.ipv6 == Passage::Free).to_ne_bytes());
        value
    }
}

impl Whereabouts {
    /// The value of an entry.
    pub(super) fn emit(self) -> [u8; VALUE_LEN] {
        let mut value = [0; VALUE_LEN];
        value[..4].copy_from_slice(&self.device.to_ne_bytes());
        value[4..].copy_from_slice(&self.max_frame_len.to_ne_bytes());
        value
    }
}

/// What the programs look into.
#[derive(Clone, Copy)]
struct Maps<'a> {
    remote: &'a Addresses,
    local: &'a Addresses,
    scope: &'a ScopeMap,
}

/// For frames that come in by the TAP.
fn into_container(maps: Maps<'_>, count: &Counter) -> Vec<u64> {
    let mut code = Assembler::default();
    let go_on = code.label();
    begin(&mut code, maps.scope, go_on);
    look_up(&mut code, maps.local, DESTINATION_KEY, go_on);
    code.load(Width::Word, Register::R7, Register::R0, 0);
    code.load(Width::Word, Register::R8, Register::R0, 4);
    look_up(&mut code, maps.remote, SOURCE_KEY, go_on);
    let fits = code.label();
    // The segments of a super-frame are as long as the sender's MTU allows: the bridge does not look at them either.
    code.load(Width::Word, Register::R2, Register::R6, GSO_SIZE);
    code.jump_if_not_equal(Register::R2, 0, fits);
    code.load(Width::Word, Register::R2, Register::R6, LEN);
    code.jump_if_greater(Register::R2, Register::R8, go_on);
    code.place(fits);
    redirect(&mut code, count, Helper::RedirectPeer);
    end(code, go_on)
}

/// For frames that come in by a container's port.
fn out_of_container(maps: Maps<'_>, count: &Counter) -> Vec<u64> {
    let mut code = Assembler::default();
    let go_on = code.label();
    begin(&mut code, maps.scope, go_on);
    look_up(&mut code, maps.remote, DESTINATION_KEY, go_on);
    code.load(Width::Word, Register::R7, Register::R0, 0);
    look_up(&mut code, maps.local, SOURCE_KEY, go_on);
    code.load(Width::Word, Register::R2, Register::R0, 0);
    code.load(Width::Word, Register::R3, Register::R6, DEVICE);
    code.jump_if_different(Register::R2, Register::R3, go_on);
    redirect(&mut code, count, Helper::Redirect);
    end(code, go_on)
}

/// `r6` = the frame; its addresses on the stack.
fn begin(code: &mut Assembler, scope: &ScopeMap, go_on: Label) {
    code.copy(Register::R6, Register::R1);
    code.load(Width::Word, Register::R2, Register::R6, VLAN_PRESENT);
    code.jump_if_not_equal(Register::R2, 0, go_on);
    code.load(Width::Word, Register::R2, Register::R6, DATA);
    code.load(Width::Word, Register::R3, Register::R6, DATA_END);
    code.copy(Register::R4, Register::R2);
    code.add(Register::R4, HEADERS_LEN);
    code.jump_if_greater(Register::R4, Register::R3, go_on);
    check_scope(code, scope, go_on);
    for (at, to) in [(0, DESTINATION_KEY), (6, SOURCE_KEY)] {
        code.store_value(Width::Double, Register::R10, to, 0);
        // By halves: a frame need not lie on a multiple of four.
        for half in [0, 2, 4] {
            code.load(Width::Half, Register::R4, Register::R2, at + half);
            code.store(Width::Half, Register::R10, to + half, Register::R4);
        }
    }
}

/// Goes on to the bridge unless the frame at `r2` holds a packet that may skip it.
fn check_scope(code: &mut Assembler, scope: &ScopeMap, go_on: Label) {
    let (is_ipv4, is_in_scope) = (code.label(), code.label());
    code.load_map_value(Register::R1, scope.as_fd());
    code.load(Width::Half, Register::R3, Register::R2, ETHER_TYPE);
    code.jump_if_equal(Register::R3, in_packet(IPV4), is_ipv4);
    code.jump_if_not_equal(Register::R3, in_packet(IPV6), go_on);
    code.load(Width::Word, Register::R3, Register::R1, 8);
    code.jump_if_equal(Register::R3, 0, go_on);
    code.go_to(is_in_scope);
    code.place(is_ipv4);
    code.load(Width::Word, Register::R7, Register::R1, 0);
    code.load(Width::Word, Register::R8, Register::R1, 4);
    for address in [IPV4_SOURCE, IPV4_DESTINATION] {
        code.load(Width::Word, Register::R3, Register::R2, address);
        code.and(Register::R3, Register::R7);
        code.jump_if_different(Register::R3, Register::R8, go_on);
    }
    code.place(is_in_scope);
}

/// A number of a packet's as a program on this machine loads it.
fn in_packet(number: u16) -> i32 {
    number.to_be().into()
}

/// `r0` = where the address is.
fn look_up(code: &mut Assembler, addresses: &Addresses, key: i16, go_on: Label) {
    code.load_map(Register::R1, addresses.as_fd());
    code.copy(Register::R2, Register::R10);
    code.add(Register::R2, key.into());
    code.call(Helper::MapLookup);
    code.jump_if_equal(Register::R0, 0, go_on);
}

/// Counts the frame and sends it by the device in `r7`.
fn redirect(code: &mut Assembler, count: &Counter, way: Helper) {
    code.load_map_value(Register::R1, count.as_fd());
    code.set(Register::R2, 1);
    code.add_atomically(Register::R1, Register::R2);
    code.copy(Register::R1, Register::R7);
    code.set(Register::R2, 0);
    code.call(way);
    code.exit();
}

fn end(mut code: Assembler, go_on: Label) -> Vec<u64> {
    code.place(go_on);
    code.set(Register::R0, GO_ON);
    code.exit();
    code.finish()
}
