//! Which socket of a `SO_REUSEPORT` group gets a QUIC packet.
//!
//! A *slot* is a worker of one instance of the engine; the slot is written into the low five bits of octet 0 of every
//! connection ID we issue (nine octets; the upper three bits are the QUIC-LB configuration). [`program`] writes a
//! classic BPF program that the kernel runs over the head of each datagram; [`steer`] is the same rule as a function,
//! for the demultiplexer in user space and as the program's test oracle:
//!
//! - Short header, and long header of version 1 that is neither Initial nor 0-RTT and has a nine-octet destination
//!   CID: the socket of the slot in octet 0 of the CID, accepting or not.
//! - Every other long header: an accepting slot by octet 0 of the destination CID. Its low five bits name an accepting
//!   slot, or else are taken modulo the number of accepting slots. Because an accepting slot names itself, the later
//!   Initials of a handshake, which carry a CID that we issued, stay with the first, and so do 0-RTT packets with
//!   either kind of CID.
//! - Short header of a slot that is not in the table: an accepting slot by four of the octets behind, so that what a
//!   vanished instance leaves is spread. The endpoint there answers with a stateless reset, or the demultiplexer
//!   knows better.
//!
//! The kernel may have merged several packets of one sender; it looks at the first. The demultiplexer therefore looks
//! at each again.

use std::{
    ffi::c_int,
    mem,
    os::fd::{AsRawFd, BorrowedFd},
};

use crate::sys;

/// Length of the connection IDs we issue.
pub const CID_BYTES: usize = 9;

/// Number of slots that octet 0 of a connection ID can name.
pub const SLOTS: u8 = 32;

const SLOT_MASK: u8 = SLOTS - 1;

/// Shortest datagrams that the rules look into; anything shorter goes where octet 0 = 0 would.
const SHORT_MIN_BYTES: usize = 2;
const SPREAD_MIN_BYTES: usize = 6;
const LONG_MIN_BYTES: usize = 7;

const QUIC_VERSION_1: u32 = 1;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Member {
    slot: u8,
    accepting: bool,
}

/// The sockets of one group in the kernel's order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SteeringTable {
    members: Vec<Member>,
}

impl SteeringTable {
    /// A table without members.
    pub fn new() -> Self {
        Self::default()
    }

    /// Appends the socket of `slot`, accepting new connections; false if the slot is taken or not below [`SLOTS`].
    pub fn join(&mut self, slot: u8) -> bool {
        let free = slot < SLOTS && self.index_of(slot).is_none();
        if free {
            self.members.push(Member { slot, accepting: true });
        }
        free
    }

    /// Removes the socket of `slot` and gives its index to the last one, as the kernel does when a socket closes;
    /// returns the index it had.
    pub fn leave(&mut self, slot: u8) -> Option<usize> {
        let index = self.index_of(slot)?;
        self.members.swap_remove(index);
        Some(index)
    }

    /// Whether `slot` gets new connections; false if there is no such slot. When no slot accepts, all count as
    /// accepting: the packets must go somewhere.
    pub fn set_accepting(&mut self, slot: u8, accepting: bool) -> bool {
        let member = self.members.iter_mut().find(|member| member.slot == slot);
        member.map(|member| member.accepting = accepting).is_some()
    }

    /// The kernel's index of the socket of `slot`.
    pub fn index_of(&self, slot: u8) -> Option<usize> {
        self.members.iter().position(|member| member.slot == slot)
    }

    /// The slot of the socket with this index.
    pub fn slot_at(&self, index: usize) -> Option<u8> {
        self.members.get(index).map(|member| member.slot)
    }

    /// Number of sockets.
    pub fn len(&self) -> usize {
        self.members.len()
    }

    /// Whether there is no socket.
    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// Slot and index of the members that take new connections, in the order of slots: that order, unlike the
    /// kernel's, does not change when another socket leaves.
    fn accepting(&self) -> Vec<(u8, usize)> {
        let all_closed = self.members.iter().all(|member| !member.accepting);
        let members = self.members.iter().enumerate().filter(|(_, member)| member.accepting || all_closed);
        let mut accepting: Vec<_> = members.map(|(index, member)| (member.slot, index)).collect();
        accepting.sort_unstable();
        accepting
    }
}

/// The accepting slot for octet 0 of a connection ID; index 0 if the group is empty.
fn accept(accepting: &[(u8, usize)], octet: u8) -> usize {
    let slot = octet & SLOT_MASK;
    if let Some((_, index)) = accepting.iter().find(|(accepting, _)| *accepting == slot) {
        return *index;
    }
    spread(accepting, slot.into())
}

fn spread(accepting: &[(u8, usize)], number: u32) -> usize {
    let position = number as usize % accepting.len().max(1);
    accepting.get(position).map_or(0, |(_, index)| *index)
}

/// The index of the socket that gets a datagram which begins with `packet`; 0 if the table is empty.
pub fn steer(packet: &[u8], table: &SteeringTable) -> usize {
    let accepting = table.accepting();
    match *packet {
        [first, ..] if packet.len() >= SHORT_MIN_BYTES && first & 0x80 != 0 => match *packet {
            [_, v0, v1, v2, v3, cid_length, octet, ..] => {
                let version = u32::from_be_bytes([v0, v1, v2, v3]);
                let established = version == QUIC_VERSION_1 && first & 0x30 >= 0x20;
                let ours = established && usize::from(cid_length) == CID_BYTES;
                let known = if ours { table.index_of(octet & SLOT_MASK) } else { None };
                known.unwrap_or_else(|| accept(&accepting, octet))
            }
            _ => accept(&accepting, 0),
        },
        [_, octet, ref rest @ ..] => match (table.index_of(octet & SLOT_MASK), rest) {
            (Some(index), _) => index,
            (None, [a, b, c, d, ..]) => spread(&accepting, u32::from_be_bytes([*a, *b, *c, *d])),
            (None, _) => accept(&accepting, 0),
        },
        _ => accept(&accepting, 0),
    }
}

/// One instruction of classic BPF, in the kernel's layout.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Instruction {
    /// Operation.
    pub code: u16,
    /// Instructions to skip if the comparison holds.
    pub jump_true: u8,
    /// Instructions to skip if it does not.
    pub jump_false: u8,
    /// Operand.
    pub value: u32,
}

// linux/bpf_common.h and linux/filter.h
const LOAD_LENGTH: u16 = 0x80;
const LOAD_BYTE: u16 = 0x30;
const LOAD_WORD: u16 = 0x20;
const AND: u16 = 0x54;
const MODULO: u16 = 0x94;
const JUMP: u16 = 0x05;
const JUMP_EQUAL: u16 = 0x15;
const JUMP_GREATER_OR_EQUAL: u16 = 0x35;
const JUMP_IF_SET: u16 = 0x45;
const RETURN: u16 = 0x06;

struct Assembler(Vec<Instruction>);

impl Assembler {
    fn push(&mut self, code: u16, value: u32) {
        self.jump(code, value, 0, 0);
    }

    fn jump(&mut self, code: u16, value: u32, jump_true: u8, jump_false: u8) {
        self.0.push(Instruction { code, jump_true, jump_false, value });
    }

    /// Returns `otherwise` unless the datagram has at least `bytes`. A load beyond the end would return index 0.
    fn require_length(&mut self, bytes: usize, otherwise: usize) {
        self.push(LOAD_LENGTH, 0);
        self.jump(JUMP_GREATER_OR_EQUAL, bytes as u32, 1, 0);
        self.push(RETURN, otherwise as u32);
    }

    /// Returns `index` if the accumulator is `value`.
    fn return_if(&mut self, value: u32, index: usize) {
        self.jump(JUMP_EQUAL, value, 0, 1);
        self.push(RETURN, index as u32);
    }

    /// Returns the socket of the slot in the accumulator, if there is one.
    fn return_slot(&mut self, table: &SteeringTable) {
        for (index, member) in table.members.iter().enumerate() {
            self.return_if(member.slot.into(), index);
        }
    }

    fn return_spread(&mut self, accepting: &[(u8, usize)]) {
        if let [others @ .., (_, last)] = accepting {
            if !others.is_empty() {
                self.push(MODULO, accepting.len() as u32);
            }
            for (position, (_, index)) in others.iter().enumerate() {
                self.return_if(position as u32, *index);
            }
            self.push(RETURN, *last as u32);
        } else {
            self.push(RETURN, 0);
        }
    }
}

/// The rule of this module for the members of `table`, for `SO_ATTACH_REUSEPORT_CBPF`: the program returns the index
/// of a socket. At most about 330 instructions; the kernel takes 4096.
pub fn program(table: &SteeringTable) -> Vec<Instruction> {
    let accepting = table.accepting();
    let shortest = accept(&accepting, 0);
    let mut asm = Assembler(Vec::with_capacity(64));

    asm.require_length(SHORT_MIN_BYTES, shortest);
    asm.push(LOAD_BYTE, 0);
    asm.jump(JUMP_IF_SET, 0x80, 0, 1);
    let to_long = asm.0.len();
    asm.push(JUMP, 0);

    asm.push(LOAD_BYTE, 1);
    asm.push(AND, SLOT_MASK.into());
    asm.return_slot(table);
    asm.require_length(SPREAD_MIN_BYTES, shortest);
    asm.push(LOAD_WORD, 2);
    asm.return_spread(&accepting);

    let long = asm.0.len();
    if let Some(jump) = asm.0.get_mut(to_long) {
        jump.value = (long - to_long - 1) as u32;
    }
    asm.require_length(LONG_MIN_BYTES, shortest);
    // Distance over the comparisons below and the chain of return_slot(): two instructions per member, at most 64.
    let chain = table.len() as u8 * 2;
    asm.push(LOAD_WORD, 1);
    asm.jump(JUMP_EQUAL, QUIC_VERSION_1, 0, 7 + chain);
    asm.push(LOAD_BYTE, 0);
    asm.push(AND, 0x30);
    asm.jump(JUMP_GREATER_OR_EQUAL, 0x20, 0, 4 + chain);
    asm.push(LOAD_BYTE, 5);
    asm.jump(JUMP_EQUAL, CID_BYTES as u32, 0, 2 + chain);
    asm.push(LOAD_BYTE, 6);
    asm.push(AND, SLOT_MASK.into());
    asm.return_slot(table);

    asm.push(LOAD_BYTE, 6);
    asm.push(AND, SLOT_MASK.into());
    for (slot, index) in &accepting {
        asm.return_if((*slot).into(), *index);
    }
    asm.return_spread(&accepting);
    asm.0
}

/// Gives `program` to the group that the socket belongs to, in place of an earlier one; atomic for packets.
///
/// # Errors
/// The errno; EINVAL if the socket shares its address with no other.
pub(crate) fn attach(fd: BorrowedFd<'_>, program: &[Instruction]) -> Result<(), i32> {
    let mut filters: Vec<libc::sock_filter> = program
        .iter()
        .map(|instruction| libc::sock_filter {
            code: instruction.code,
            jt: instruction.jump_true,
            jf: instruction.jump_false,
            k: instruction.value,
        })
        .collect();
    let length = u16::try_from(filters.len()).map_err(|_| libc::EINVAL)?;
    let program = libc::sock_fprog { len: length, filter: filters.as_mut_ptr() };
    let size = mem::size_of::<libc::sock_fprog>() as libc::socklen_t;
    let option: c_int = libc::SO_ATTACH_REUSEPORT_CBPF;
    // SAFETY: `program` describes `length` instructions in `filters`; the kernel copies them during the call.
    sys::check(unsafe { libc::setsockopt(fd.as_raw_fd(), libc::SOL_SOCKET, option, (&raw const program).cast(), size) })
        .map(drop)
}

#[cfg(test)]
mod tests;
