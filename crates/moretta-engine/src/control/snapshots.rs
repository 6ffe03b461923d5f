//! A snapshot document becomes a snapshot: compiled whole, its listeners opened, then handed to every worker at once.
//! Whatever fails on the way, what was in force stays in force.

use super::compile;
use crate::document::{self, Event};
use crate::error::EngineError;
use crate::instance::Instance;
use crate::mailbox::{ListenerSocket, Message};
use moretta_core::{CoreSnapshot, LinkId};
use moretta_io::{ErrorKind, OpenError, ReuseportGroup, SocketOptions, UdpSocket};
use moretta_proto::policy::OwnAddresses;
use rustls::server::ProducesTickets;
use std::collections::HashSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

/// Listening addresses of one snapshot, at most.
const MAX_ADDRESSES: usize = 256;

/// What is open at one address.
#[derive(Debug)]
struct OpenListener {
    name: String,
    /// As configured; port 0 stays port 0 here.
    configured: SocketAddr,
    link: LinkId,
    group: ReuseportGroup,
    /// Workers that have no connection of it left, after it was taken away.
    idle: HashSet<usize>,
}

/// A group that was opened for a snapshot that is not in force yet.
struct NewListener {
    open: OpenListener,
    sockets: Vec<UdpSocket>,
}

/// The snapshot in force and its listeners. Owned by the helper.
#[derive(Debug)]
pub(crate) struct Snapshots {
    ticketer: Arc<dyn ProducesTickets>,
    open: Vec<OpenListener>,
    /// Taken away, while connections that came through them may live: an address that comes back finds its sockets.
    lingering: Vec<OpenListener>,
    in_force: Arc<CoreSnapshot>,
    interfaces: Vec<(IpAddr, u8)>,
    /// Workers whose threads have ended by themselves.
    lost: Vec<usize>,
}

impl Snapshots {
    /// With nothing in force: no listener, and no target that is allowed.
    pub(crate) fn new(ticketer: Arc<dyn ProducesTickets>, addresses: &moretta_io::OwnAddresses) -> Self {
        let interfaces: Vec<(IpAddr, u8)> = addresses.interfaces().collect();
        let own = OwnAddresses::new(interfaces.iter().copied());
        let in_force = Arc::new(compile::empty(own));
        Self { ticketer, open: Vec::new(), lingering: Vec::new(), in_force, interfaces, lost: Vec::new() }
    }

    pub(crate) fn in_force(&self) -> Arc<CoreSnapshot> {
        Arc::clone(&self.in_force)
    }

    /// The same snapshot with the addresses that this host has now, given to every worker.
    pub(crate) fn addresses_changed(
        &mut self,
        instance: &Instance,
        addresses: &moretta_io::OwnAddresses,
    ) -> Arc<CoreSnapshot> {
        self.interfaces = addresses.interfaces().collect();
        let own = Arc::new(self.own_addresses());
        let snapshot = Arc::new(CoreSnapshot { own_addresses: own, ..(*self.in_force).clone() });
        for mailbox in &instance.workers {
            let (add, remove) = (Vec::new(), Vec::new());
            mailbox.post(Message::Snapshot { snapshot: Arc::clone(&snapshot), add, remove });
        }
        std::mem::replace(&mut self.in_force, snapshot)
    }

    /// Closes a removed listener once no worker has a connection of it left.
    pub(crate) fn listener_idle(&mut self, instance: &Instance, worker: usize, link: LinkId) {
        // One that has come back is in force again, whatever was under way.
        let Some(index) = self.lingering.iter().position(|open| open.link == link) else { return };
        let Some(open) = self.lingering.get_mut(index) else { return };
        open.idle.insert(worker);
        if open.idle.len() == instance.workers.len() {
            for mailbox in &instance.workers {
                mailbox.post(Message::CloseLink(link));
            }
            self.lingering.remove(index);
        }
    }

    /// New connections go to the other workers from now on.
    pub(crate) fn worker_lost(&mut self, worker: usize) {
        self.lost.push(worker);
        for open in self.open.iter_mut().chain(&mut self.lingering) {
            stop_accepting(&mut open.group, &self.lost);
        }
    }

    fn own_addresses(&self) -> OwnAddresses {
        let listening = self.open.iter().chain(&self.lingering).map(|open| open.group.local_address());
        OwnAddresses::new(self.interfaces.iter().copied()).with_sockets(listening)
    }

    /// Puts a snapshot in force and returns the one before it, or changes nothing.
    pub(crate) fn apply(
        &mut self,
        instance: &Instance,
        document: &document::Snapshot,
    ) -> Result<Arc<CoreSnapshot>, EngineError> {
        check_listeners(&document.listeners)?;
        let mut snapshot = compile::snapshot(document, self.own_addresses(), |listener, path| {
            let key = instance.secret(&listener.key_secret);
            let key = key.as_ref().map(|key| key.as_slice());
            let ticketer = Arc::clone(&self.ticketer);
            crate::tls::server_config(path, &listener.certificate_pem, &listener.key_secret, key, ticketer)
        })?;
        let new = self.open_new(instance, document)?;
        // Nothing below can fail.
        let listening = new.iter().map(|new| new.open.group.local_address());
        let own = self.own_addresses().with_sockets(listening);
        snapshot.own_addresses = Arc::new(own);
        let snapshot = Arc::new(snapshot);
        instance.ledger.set_max_tunnels(snapshot.proto.limits.max_tunnels);
        self.put_in_force(instance, document, &snapshot, new);
        Ok(std::mem::replace(&mut self.in_force, snapshot))
    }

    /// Opens what is listed and not open yet; what was opened is closed again when one fails.
    fn open_new(&self, instance: &Instance, document: &document::Snapshot) -> Result<Vec<NewListener>, EngineError> {
        let mut new = Vec::new();
        for (index, listener) in document.listeners.iter().enumerate() {
            for (position, address) in listener.addresses.iter().enumerate() {
                let here = |open: &OpenListener| open.name == listener.name && open.configured == *address;
                if self.open.iter().chain(&self.lingering).any(here) {
                    continue;
                }
                let path = format!("listeners[{index}].addresses[{position}]");
                let (mut group, sockets) =
                    open_group(*address, instance.workers.len()).map_err(|error| refused(path, *address, error))?;
                stop_accepting(&mut group, &self.lost);
                let open = OpenListener {
                    name: listener.name.clone(),
                    configured: *address,
                    link: instance.new_link(),
                    group,
                    idle: HashSet::new(),
                };
                new.push(NewListener { open, sockets });
            }
        }
        Ok(new)
    }

    fn put_in_force(
        &mut self,
        instance: &Instance,
        document: &document::Snapshot,
        snapshot: &Arc<CoreSnapshot>,
        new: Vec<NewListener>,
    ) {
        let listed = |open: &OpenListener| {
            document
                .listeners
                .iter()
                .any(|listener| listener.name == open.name && listener.addresses.contains(&open.configured))
        };
        let mut add: Vec<Vec<ListenerSocket>> = instance.workers.iter().map(|_| Vec::new()).collect();
        let removed: Vec<OpenListener> = self.open.extract_if(.., |open| !listed(open)).collect();
        let remove: Vec<LinkId> = removed.iter().map(|open| open.link).collect();
        let mut returned: Vec<OpenListener> = self.lingering.extract_if(.., |open| listed(open)).collect();
        self.lingering.extend(removed);
        for open in &mut returned {
            open.idle.clear();
            for sockets in &mut add {
                sockets.push(announce(open, None));
            }
        }
        self.open.extend(returned);
        for NewListener { open, sockets } in new {
            for (list, socket) in add.iter_mut().zip(sockets) {
                list.push(announce(&open, Some(socket)));
            }
            self.open.push(open);
        }
        for (mailbox, add) in instance.workers.iter().zip(add) {
            mailbox.post(Message::Snapshot { snapshot: Arc::clone(snapshot), add, remove: remove.clone() });
        }
        self.tell(instance, document);
    }

    fn tell(&self, instance: &Instance, document: &document::Snapshot) {
        for listener in &document.listeners {
            let addresses = listener
                .addresses
                .iter()
                .filter_map(|address| {
                    let here = |open: &&OpenListener| open.name == listener.name && open.configured == *address;
                    self.open.iter().find(here).map(|open| open.group.local_address())
                })
                .collect();
            let event = document::Listening { listener: listener.name.clone(), addresses };
            instance.border.push(Event::Listening(event));
        }
        let applied = document::SnapshotApplied { generation: document.generation };
        instance.border.push(Event::SnapshotApplied(applied));
    }
}

fn announce(open: &OpenListener, socket: Option<UdpSocket>) -> ListenerSocket {
    ListenerSocket {
        link: open.link,
        name: open.name.clone(),
        loopback: open.group.local_address().ip().is_loopback(),
        socket,
    }
}

fn check_listeners(listeners: &[document::Listener]) -> Result<(), EngineError> {
    let mut names = HashSet::new();
    let mut addresses = HashSet::new();
    for (index, listener) in listeners.iter().enumerate() {
        let path = format!("listeners[{index}]");
        if listener.name.is_empty() || !names.insert(&listener.name) {
            let message = format!("must be there and unique, not {:?}", listener.name);
            return Err(EngineError::document(format!("{path}.name"), message));
        }
        if listener.addresses.is_empty() {
            let message = "must name at least one address, for example 127.0.0.1:4433";
            return Err(EngineError::document(format!("{path}.addresses"), message));
        }
        for (position, address) in listener.addresses.iter().enumerate() {
            let path = format!("{path}.addresses[{position}]");
            if !addresses.insert(*address) && address.port() != 0 {
                return Err(EngineError::document(path, format!("{address} is listed twice")));
            }
            if addresses.len() > MAX_ADDRESSES {
                return Err(EngineError::document(path, format!("at most {MAX_ADDRESSES} addresses")));
            }
        }
        let mut here = HashSet::new();
        if !listener.addresses.iter().all(|address| here.insert(*address)) {
            let message = "an address is listed twice";
            return Err(EngineError::document(format!("{path}.addresses"), message));
        }
    }
    Ok(())
}

/// One socket for each worker, steered by the slot in connection IDs.
fn open_group(address: SocketAddr, workers: usize) -> Result<(ReuseportGroup, Vec<UdpSocket>), OpenError> {
    // A wildcard listener answers from the address that it was asked at (HG-10).
    let options = SocketOptions { packet_info: address.ip().is_unspecified(), ..SocketOptions::quic() };
    let (mut group, first) = ReuseportGroup::open(address, 0, &options)?;
    let mut sockets = vec![first];
    for slot in 1..workers {
        sockets.push(group.join(slot as u8)?);
    }
    Ok((group, sockets))
}

fn stop_accepting(group: &mut ReuseportGroup, lost: &[usize]) {
    for worker in lost {
        // A group that cannot be steered any more is as it was: some connections will not be answered.
        group.set_accepting(*worker as u8, false).unwrap_or_default();
    }
}

#[allow(clippy::wildcard_enum_match_arm, reason = "kinds without a remedy of their own are told in the system's words")]
fn refused(path: String, address: SocketAddr, error: OpenError) -> EngineError {
    match error.kind {
        ErrorKind::AddressInUse => EngineError::PortInUse { path, address },
        ErrorKind::PermissionDenied => EngineError::Permission { path, what: format!("listen on {address}") },
        _ => EngineError::System { path, what: format!("listen on {address}"), error: error.to_string() },
    }
}
