//! Several sockets on one address, one per worker, and the program that distributes packets among them.

use std::{
    net::SocketAddr,
    os::fd::{AsFd, OwnedFd},
    sync::Arc,
};

use crate::{
    ErrorKind, OpenError, Operation, SocketOptions, UdpSocket,
    steering::{self, SteeringTable},
};

/// A `SO_REUSEPORT` group with its steering.
///
/// The group belongs to whoever manages workers; each socket goes to its worker. The first socket is bound
/// exclusively, so "port in use" is found before anything is shared, and is only then opened to the others: no moment
/// exists in which a probe has been closed and the port is free for someone else.
#[derive(Debug)]
pub struct ReuseportGroup {
    address: SocketAddr,
    options: SocketOptions,
    /// In the kernel's order, as the table.
    members: Vec<Arc<OwnedFd>>,
    table: SteeringTable,
}

impl ReuseportGroup {
    /// Opens `address` with a first socket for `slot`; port 0 picks a free port for the whole group.
    ///
    /// # Errors
    /// [`ErrorKind::AddressInUse`] if anyone else has the port, even another group; [`ErrorKind::WildcardRefused`];
    /// whatever else the kernel says.
    pub fn open(address: SocketAddr, slot: u8, options: &SocketOptions) -> Result<(Self, UdpSocket), OpenError> {
        let socket = UdpSocket::open_listener(address, options)?;
        socket.open_to_group()?;
        let mut group = Self {
            address: socket.local_address(),
            options: options.clone(),
            members: Vec::new(),
            table: SteeringTable::new(),
        };
        group.add(slot, &socket)?;
        Ok((group, socket))
    }

    /// Adds a socket for `slot` and steers its packets to it.
    ///
    /// # Errors
    /// `Other(EEXIST)` if the slot has a socket or is out of range, and whatever the kernel says; the group is then
    /// as before.
    pub fn join(&mut self, slot: u8) -> Result<UdpSocket, OpenError> {
        let socket = UdpSocket::join_listener(self.address, &self.options)?;
        self.add(slot, &socket)?;
        if let Err(error) = self.attach() {
            self.table.leave(slot);
            self.members.pop();
            return Err(error);
        }
        Ok(socket)
    }

    fn add(&mut self, slot: u8, socket: &UdpSocket) -> Result<(), OpenError> {
        if !self.table.join(slot) {
            return Err(self.error(Operation::AttachSteering, libc::EEXIST));
        }
        self.members.push(socket.share_descriptor());
        Ok(())
    }

    /// Closes the socket of `slot`, whose [`UdpSocket`] the worker must have dropped, and steers by the order that
    /// the kernel has then. Packets that wait in its queue are lost; those that arrive in between may reach another
    /// socket, whose demultiplexer hands them on.
    ///
    /// # Errors
    /// `Other(EBUSY)` if the worker still has the socket, `Other(ENOENT)` if there is no such slot.
    pub fn leave(&mut self, slot: u8) -> Result<(), OpenError> {
        let Some(index) = self.table.index_of(slot) else {
            return Err(self.error(Operation::AttachSteering, libc::ENOENT));
        };
        if self.members.get(index).is_none_or(|member| Arc::strong_count(member) != 1) {
            return Err(self.error(Operation::AttachSteering, libc::EBUSY));
        }
        self.table.leave(slot);
        self.members.swap_remove(index);
        self.attach()
    }

    /// Whether new connections go to `slot`; packets of its established ones do in any case.
    ///
    /// # Errors
    /// `Other(ENOENT)` if there is no such slot, and whatever the kernel says.
    pub fn set_accepting(&mut self, slot: u8, accepting: bool) -> Result<(), OpenError> {
        if !self.table.set_accepting(slot, accepting) {
            return Err(self.error(Operation::AttachSteering, libc::ENOENT));
        }
        self.attach()
    }

    fn attach(&self) -> Result<(), OpenError> {
        match self.members.as_slice() {
            // A socket alone gets everything; the kernel knows no group yet.
            [] | [_] => Ok(()),
            [first, ..] => steering::attach(first.as_fd(), &steering::program(&self.table))
                .map_err(|errno| self.error(Operation::AttachSteering, errno)),
        }
    }

    fn error(&self, operation: Operation, errno: i32) -> OpenError {
        OpenError { operation, kind: ErrorKind::from_errno(errno), address: Some(self.address) }
    }

    /// The address all members share, with the port the kernel chose.
    pub fn local_address(&self) -> SocketAddr {
        self.address
    }

    /// Slots and indices as the kernel has them.
    pub fn table(&self) -> &SteeringTable {
        &self.table
    }
}
