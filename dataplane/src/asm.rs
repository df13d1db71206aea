//! A small assembler for eBPF: as much of the instruction set as our programs need.
//!
//! ```text
//! +-------------+----------------------------+-----------------+----------------------+
//! | opcode: u8  | to: 4 bits, from: 4 bits   | offset: i16     | value: i32           |
//! +-------------+----------------------------+-----------------+----------------------+
//! ```
//!
//! An instruction is 8 bytes in the machine's byte order (RFC 9669 §3); only [`Assembler::load_map`] and
//! [`Assembler::load_map_value`] take two. Jumps go to labels and forward only, so that every program ends.

use std::os::fd::{AsRawFd, BorrowedFd};

/// The registers. `R1` to `R5` are lost in a call, `R6` to `R9` are kept, `R10` is the end of the stack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Register {
    R0,
    R1,
    R2,
    R3,
    R4,
    R6 = 6,
    R7,
    R8,
    R9,
    R10 = 10,
}

/// Bytes that a load or a store moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Width {
    /// 1 byte.
    Byte = 0x10,
    /// 4 bytes.
    Word = 0x00,
    /// 2 bytes.
    Half = 0x08,
    /// 8 bytes.
    Double = 0x18,
}

/// Functions of the kernel that a program may call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Helper {
    /// `void *bpf_map_lookup_elem(map, key)`
    MapLookup = 1,
    /// `long bpf_redirect(device, flags)`: the frame leaves by the device.
    Redirect = 23,
    /// `long bpf_skb_load_bytes(frame, offset, to, len)`: zero when the frame is so long.
    LoadBytes = 26,
    /// `long bpf_redirect_peer(device, flags)`: the frame comes in at the device's other end, in its namespace.
    RedirectPeer = 155,
}

/// A place in the program that jumps go to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Label(usize);

/// A program in the making.
#[derive(Debug, Default)]
pub(crate) struct Assembler {
    instructions: Vec<Instruction>,
    /// Where each label was placed.
    labels: Vec<Option<usize>>,
    /// Instructions whose offset is the way to a label.
    jumps: Vec<(usize, Label)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Instruction {
    opcode: u8,
    to: u8,
    from: u8,
    offset: i16,
    value: i32,
}

// Classes, modes and sources of RFC 9669 §3.
const CLASS_LOAD: u8 = 0x00;
const CLASS_LOAD_REGISTER: u8 = 0x01;
const CLASS_STORE: u8 = 0x02;
const CLASS_STORE_REGISTER: u8 = 0x03;
const CLASS_JUMP: u8 = 0x05;
const CLASS_ARITHMETIC: u8 = 0x07;
const MODE_MEMORY: u8 = 0x60;
const MODE_ATOMIC: u8 = 0xc0;
const FROM_REGISTER: u8 = 0x08;
const ADD: u8 = 0x00;
const MULTIPLY: u8 = 0x20;
const AND: u8 = 0x50;
const SHIFT_LEFT: u8 = 0x60;
const SHIFT_RIGHT: u8 = 0x70;
const MODULO: u8 = 0x90;
const XOR: u8 = 0xa0;
const MOVE: u8 = 0xb0;
const ALWAYS: u8 = 0x00;
const IF_EQUAL: u8 = 0x10;
const IF_GREATER: u8 = 0x20;
const IF_NOT_EQUAL: u8 = 0x50;
const CALL: u8 = 0x80;
const EXIT: u8 = 0x90;
/// In the place of the source register of a 64-bit load: the value is the descriptor of a map.
const MAP_DESCRIPTOR: u8 = 1;
/// The same, and what is wanted is the address of its only value.
const MAP_VALUE: u8 = 2;

impl Assembler {
    /// A label that is to be placed.
    pub(crate) fn label(&mut self) -> Label {
        self.labels.push(None);
        Label(self.labels.len() - 1)
    }

    /// The label is here.
    pub(crate) fn place(&mut self, label: Label) {
        self.labels[label.0] = Some(self.instructions.len());
    }

    /// `to = from`
    pub(crate) fn copy(&mut self, to: Register, from: Register) {
        self.combine(MOVE, to, from);
    }

    /// `to = value`
    pub(crate) fn set(&mut self, to: Register, value: i32) {
        self.combine_value(MOVE, to, value);
    }

    /// `to += value`
    pub(crate) fn add(&mut self, to: Register, value: i32) {
        self.combine_value(ADD, to, value);
    }

    /// `to += from`
    pub(crate) fn add_register(&mut self, to: Register, from: Register) {
        self.combine(ADD, to, from);
    }

    /// `to &= from`
    pub(crate) fn and(&mut self, to: Register, from: Register) {
        self.combine(AND, to, from);
    }

    /// `to &= value`
    pub(crate) fn and_value(&mut self, to: Register, value: i32) {
        self.combine_value(AND, to, value);
    }

    /// `to ^= from`
    pub(crate) fn xor(&mut self, to: Register, from: Register) {
        self.combine(XOR, to, from);
    }

    /// `to *= value`
    pub(crate) fn multiply(&mut self, to: Register, value: i32) {
        self.combine_value(MULTIPLY, to, value);
    }

    /// `to *= from`
    pub(crate) fn multiply_register(&mut self, to: Register, from: Register) {
        self.combine(MULTIPLY, to, from);
    }

    /// `to %= from`, without a sign; nothing where `from` is zero.
    pub(crate) fn modulo(&mut self, to: Register, from: Register) {
        self.combine(MODULO, to, from);
    }

    /// `to <<= bits`
    pub(crate) fn shift_left(&mut self, to: Register, bits: i32) {
        self.combine_value(SHIFT_LEFT, to, bits);
    }

    /// `to >>= bits`, filled with zeroes.
    pub(crate) fn shift_right(&mut self, to: Register, bits: i32) {
        self.combine_value(SHIFT_RIGHT, to, bits);
    }

    /// `to = *(from + offset)`
    pub(crate) fn load(&mut self, width: Width, to: Register, from: Register, offset: i16) {
        self.push(CLASS_LOAD_REGISTER | MODE_MEMORY | width as u8, to as u8, from as u8, offset, 0);
    }

    /// `*(to + offset) = from`
    pub(crate) fn store(&mut self, width: Width, to: Register, offset: i16, from: Register) {
        self.push(CLASS_STORE_REGISTER | MODE_MEMORY | width as u8, to as u8, from as u8, offset, 0);
    }

    /// `*(to + offset) = value`
    pub(crate) fn store_value(&mut self, width: Width, to: Register, offset: i16, value: i32) {
        self.push(CLASS_STORE | MODE_MEMORY | width as u8, to as u8, 0, offset, value);
    }

    /// `*(u64 *)to += from`, in one step for all processors.
    pub(crate) fn add_atomically(&mut self, to: Register, from: Register) {
        let opcode = CLASS_STORE_REGISTER | MODE_ATOMIC | Width::Double as u8;
        self.push(opcode, to as u8, from as u8, 0, i32::from(ADD));
    }

    /// `to = map`
    pub(crate) fn load_map(&mut self, to: Register, map: BorrowedFd<'_>) {
        self.load_double(to, MAP_DESCRIPTOR, map.as_raw_fd());
    }

    /// `to = &map[0]`, of an array with one entry.
    pub(crate) fn load_map_value(&mut self, to: Register, map: BorrowedFd<'_>) {
        self.load_double(to, MAP_VALUE, map.as_raw_fd());
    }

    /// `r0 = helper(r1, r2, …)`
    pub(crate) fn call(&mut self, helper: Helper) {
        self.push(CLASS_JUMP | CALL, 0, 0, 0, helper as i32);
    }

    /// `return r0`
    pub(crate) fn exit(&mut self) {
        self.push(CLASS_JUMP | EXIT, 0, 0, 0, 0);
    }

    /// `goto label`
    pub(crate) fn go_to(&mut self, label: Label) {
        self.jump(ALWAYS, Register::R0, 0, 0, label);
    }

    /// `if register == value goto label`
    pub(crate) fn jump_if_equal(&mut self, register: Register, value: i32, label: Label) {
        self.jump(IF_EQUAL, register, 0, value, label);
    }

    /// `if register != value goto label`
    pub(crate) fn jump_if_not_equal(&mut self, register: Register, value: i32, label: Label) {
        self.jump(IF_NOT_EQUAL, register, 0, value, label);
    }

    /// `if a != b goto label`
    pub(crate) fn jump_if_different(&mut self, a: Register, b: Register, label: Label) {
        self.jump(IF_NOT_EQUAL | FROM_REGISTER, a, b as u8, 0, label);
    }

    /// `if a > b goto label`
    pub(crate) fn jump_if_greater(&mut self, a: Register, b: Register, label: Label) {
        self.jump(IF_GREATER | FROM_REGISTER, a, b as u8, 0, label);
    }

    /// The program as the kernel takes it.
    pub(crate) fn finish(mut self) -> Vec<u64> {
        for (at, label) in &self.jumps {
            let target = self.labels[label.0].expect("a label that is jumped to has been placed");
            assert!(target > *at, "jumps go forward");
            let distance = i16::try_from(target - at - 1).expect("programs have some dozens of instructions");
            self.instructions[*at].offset = distance;
        }
        self.instructions.into_iter().map(Instruction::emit).collect()
    }

    /// `to operation= from`
    fn combine(&mut self, operation: u8, to: Register, from: Register) {
        self.push(CLASS_ARITHMETIC | operation | FROM_REGISTER, to as u8, from as u8, 0, 0);
    }

    /// `to operation= value`
    fn combine_value(&mut self, operation: u8, to: Register, value: i32) {
        self.push(CLASS_ARITHMETIC | operation, to as u8, 0, 0, value);
    }

    fn jump(&mut self, condition: u8, register: Register, other: u8, value: i32, label: Label) {
        self.jumps.push((self.instructions.len(), label));
        self.push(CLASS_JUMP | condition, register as u8, other, 0, value);
    }

    /// The one instruction that takes two places: the second holds the upper half, zero for a descriptor.
    fn load_double(&mut self, to: Register, kind: u8, value: i32) {
        self.push(CLASS_LOAD | Width::Double as u8, to as u8, kind, 0, value);
        self.push(0, 0, 0, 0, 0);
    }

    fn push(&mut self, opcode: u8, to: u8, from: u8, offset: i16, value: i32) {
        self.instructions.push(Instruction { opcode, to, from, offset, value });
    }
}

impl Instruction {
    fn emit(self) -> u64 {
        let registers =
            if cfg!(target_endian = "little") { self.from << 4 | self.to } else { self.to << 4 | self.from };
        let mut bytes = [0; 8];
        bytes[0] = self.opcode;
        bytes[1] = registers;
        bytes[2..4].copy_from_slice(&self.offset.to_ne_bytes());
        bytes[4..8].copy_from_slice(&self.value.to_ne_bytes());
        u64::from_ne_bytes(bytes)
    }
}

#[cfg(test)]
mod tests {
    use std::{fs::File, os::fd::AsFd};

    use super::*;

    fn bytes(assembler: Assembler) -> Vec<[u8; 8]> {
        assembler.finish().into_iter().map(u64::to_le_bytes).collect()
    }

    /// Put together by hand from the tables of RFC 9669 §4 and §5.
    #[test]
    #[cfg(target_endian = "little")]
    fn instructions_have_the_bytes_of_the_specification() {
        let mut assembler = Assembler::default();
        assembler.copy(Register::R6, Register::R1);
        assembler.set(Register::R0, -1);
        assembler.add(Register::R2, -8);
        assembler.and(Register::R3, Register::R7);
        assembler.and_value(Register::R3, 0x3f);
        assembler.xor(Register::R7, Register::R2);
        assembler.multiply(Register::R7, 3);
        assembler.add_register(Register::R9, Register::R7);
        assembler.multiply_register(Register::R7, Register::R3);
        assembler.modulo(Register::R7, Register::R2);
        assembler.shift_left(Register::R8, 2);
        assembler.shift_right(Register::R3, 32);
        assembler.load(Width::Byte, Register::R2, Register::R6, 9);
        assembler.load(Width::Word, Register::R2, Register::R6, 76);
        assembler.load(Width::Half, Register::R4, Register::R2, 12);
        assembler.store(Width::Half, Register::R10, -2, Register::R4);
        assembler.store_value(Width::Double, Register::R10, -8, 0);
        assembler.add_atomically(Register::R1, Register::R2);
        assembler.call(Helper::MapLookup);
        assembler.exit();
        let expected = [
            [0xbf, 0x16, 0, 0, 0, 0, 0, 0],
            [0xb7, 0x00, 0, 0, 0xff, 0xff, 0xff, 0xff],
            [0x07, 0x02, 0, 0, 0xf8, 0xff, 0xff, 0xff],
            [0x5f, 0x73, 0, 0, 0, 0, 0, 0],
            [0x57, 0x03, 0, 0, 0x3f, 0, 0, 0],
            [0xaf, 0x27, 0, 0, 0, 0, 0, 0],
            [0x27, 0x07, 0, 0, 3, 0, 0, 0],
            [0x0f, 0x79, 0, 0, 0, 0, 0, 0],
            [0x2f, 0x37, 0, 0, 0, 0, 0, 0],
            [0x9f, 0x27, 0, 0, 0, 0, 0, 0],
            [0x67, 0x08, 0, 0, 2, 0, 0, 0],
            [0x77, 0x03, 0, 0, 32, 0, 0, 0],
            [0x71, 0x62, 9, 0, 0, 0, 0, 0],
            [0x61, 0x62, 76, 0, 0, 0, 0, 0],
            [0x69, 0x24, 12, 0, 0, 0, 0, 0],
            [0x6b, 0x4a, 0xfe, 0xff, 0, 0, 0, 0],
            [0x7a, 0x0a, 0xf8, 0xff, 0, 0, 0, 0],
            [0xdb, 0x21, 0, 0, 0, 0, 0, 0],
            [0x85, 0, 0, 0, 1, 0, 0, 0],
            [0x95, 0, 0, 0, 0, 0, 0, 0],
        ];
        assert_eq!(bytes(assembler), expected);
    }

    #[test]
    #[cfg(target_endian = "little")]
    fn jumps_are_counted_from_the_next_instruction_to_their_label() {
        let mut assembler = Assembler::default();
        let (near, far) = (assembler.label(), assembler.label());
        assembler.jump_if_equal(Register::R0, 0, far);
        assembler.jump_if_not_equal(Register::R2, 5, near);
        assembler.place(near);
        assembler.jump_if_greater(Register::R4, Register::R3, far);
        assembler.jump_if_different(Register::R7, Register::R8, far);
        assembler.go_to(far);
        assembler.place(far);
        assembler.exit();
        let bytes = bytes(assembler);
        assert_eq!(bytes[0], [0x15, 0x00, 4, 0, 0, 0, 0, 0]);
        assert_eq!(bytes[1], [0x55, 0x02, 0, 0, 5, 0, 0, 0]);
        assert_eq!(bytes[2], [0x2d, 0x34, 2, 0, 0, 0, 0, 0]);
        assert_eq!(bytes[3], [0x5d, 0x87, 1, 0, 0, 0, 0, 0]);
        assert_eq!(bytes[4], [0x05, 0x00, 0, 0, 0, 0, 0, 0]);
    }

    #[test]
    #[cfg(target_endian = "little")]
    fn a_map_takes_two_places_and_jumps_count_both() {
        let file = File::open("/dev/null").unwrap();
        let mut assembler = Assembler::default();
        let end = assembler.label();
        assembler.jump_if_equal(Register::R0, 0, end);
        assembler.load_map(Register::R1, file.as_fd());
        assembler.load_map_value(Register::R1, file.as_fd());
        assembler.place(end);
        assembler.exit();
        let bytes = bytes(assembler);
        let [descriptor, ..] = file.as_raw_fd().to_le_bytes();
        assert_eq!(bytes[0][2], 4);
        assert_eq!(bytes[1], [0x18, 0x11, 0, 0, descriptor, 0, 0, 0]);
        assert_eq!(bytes[2], [0; 8]);
        assert_eq!(bytes[3], [0x18, 0x21, 0, 0, descriptor, 0, 0, 0]);
    }

    #[test]
    #[should_panic(expected = "jumps go forward")]
    fn a_jump_back_is_refused() {
        let mut assembler = Assembler::default();
        let start = assembler.label();
        assembler.place(start);
        assembler.jump_if_equal(Register::R0, 0, start);
        assembler.finish();
    }
}
