//! What sockets refuse, lose and report.
#![cfg(test)]

mod common;

use std::{net::SocketAddr, os::fd::AsFd};

use bytes::Bytes;
use common::{Link, ipv6_available, payloads, readable};
use moretta_io::{
    ErrorKind, FlowBuffers, Operation, OutgoingTrain, ReceiveBatch, ReuseportGroup, SendBatch, SocketOptions, UdpSocket,
};

fn loopback() -> SocketAddr {
    "127.0.0.1:0".parse().unwrap()
}

/// HG-9: the count that we show is the number of packets that never came out.
#[test]
fn the_kernels_drop_count_is_exactly_what_was_lost() {
    let options = SocketOptions { receive_buffer_bytes: 16 << 10, ..SocketOptions::quic() };
    let mut listener = UdpSocket::open_listener(loopback(), &options).unwrap();
    let mut client = UdpSocket::open_client(loopback(), &SocketOptions::quic()).unwrap();
    let mut batch = ReceiveBatch::new(64);
    let (mut sent, mut received) = (0_u64, 0_u64);
    for round in 0..3 {
        for _ in 0..200 {
            let remote = Some(listener.local_address());
            let train = OutgoingTrain { remote, local: None, ecn: 0, segment_size: None, data: &[1; 1000] };
            sent += client.send_train(&train).sent as u64;
        }
        while listener.receive(&mut batch).unwrap() > 0 {
            received += batch.drain().count() as u64;
        }
        listener.refresh_drops();
        assert!(received < sent, "the buffer took everything; the test lost its point");
        assert_eq!(listener.counters().dropped_by_kernel, sent - received, "round {round}");
        assert_eq!(listener.counters().datagrams_received, received);
    }
    // The next datagram brings the same count by another way: nothing is counted twice.
    let remote = Some(listener.local_address());
    client.send_train(&OutgoingTrain { remote, local: None, ecn: 0, segment_size: None, data: &[2] });
    readable(&listener);
    listener.receive(&mut batch).unwrap();
    assert_eq!(listener.counters().dropped_by_kernel, sent - received);
}

/// HG-9: a busy socket needs no extra question; the count rides on the datagrams.
#[test]
fn drops_are_seen_with_the_next_datagram() {
    let options = SocketOptions { receive_buffer_bytes: 8 << 10, ..SocketOptions::target() };
    let mut link = Link::open_with(loopback(), &options);
    for _ in 0..100 {
        link.target_sends(&payloads(&[1000]));
    }
    let mut buffers = FlowBuffers::new(64);
    let mut received = 0;
    while link.flow.receive_flow(&mut buffers, 64).unwrap() > 0 {
        received += buffers.iter().count() as u64;
    }
    assert_eq!(link.flow.counters().dropped_by_kernel, 0, "not known yet");
    link.target_sends(&payloads(&[1]));
    readable(&link.flow);
    link.flow.receive_flow(&mut buffers, 64).unwrap();
    assert_eq!(link.flow.counters().dropped_by_kernel, 100 - received);
}

#[test]
fn the_granted_buffer_is_readable() {
    let asked = 256 << 10;
    let options = SocketOptions { receive_buffer_bytes: asked, ..SocketOptions::quic() };
    let socket = UdpSocket::open_client(loopback(), &options).unwrap();
    let granted = socket.receive_buffer_bytes();
    // net.core.rmem_max may be lower for a user without CAP_NET_ADMIN, but never this low.
    assert!((100 << 10..=asked).contains(&granted), "granted {granted}");
}

#[test]
fn a_port_in_use_is_one_clear_error_even_if_the_other_would_share() {
    let taken = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let (group, _member) = ReuseportGroup::open(loopback(), 0, &SocketOptions::quic()).unwrap();
    for (id, address) in [("an exclusive socket", address), ("another group", group.local_address())] {
        let error = ReuseportGroup::open(address, 0, &SocketOptions::quic()).unwrap_err();
        assert_eq!((error.operation, error.kind), (Operation::Bind, ErrorKind::AddressInUse), "{id}");
        assert_eq!(error.to_string(), format!("cannot bind {address}: address already in use"), "{id}");
        let error = UdpSocket::open_listener(address, &SocketOptions::quic()).unwrap_err();
        assert_eq!(error.kind, ErrorKind::AddressInUse, "{id}");
    }
}

#[test]
fn an_address_of_another_host_is_named_in_the_error() {
    let address = "192.0.2.1:4433".parse().unwrap();
    let error = UdpSocket::open_listener(address, &SocketOptions::quic()).unwrap_err();
    assert_eq!(error.kind, ErrorKind::AddressNotAvailable);
    assert!(error.to_string().contains("192.0.2.1:4433"));
}

/// HG-10
#[test]
fn a_wildcard_needs_packet_info() {
    for address in ["0.0.0.0:0", "[::]:0"] {
        let address: SocketAddr = address.parse().unwrap();
        let error = UdpSocket::open_listener(address, &SocketOptions::quic()).unwrap_err();
        assert_eq!(error.kind, ErrorKind::WildcardRefused, "{address}");
        let error = ReuseportGroup::open(address, 0, &SocketOptions::quic()).unwrap_err();
        assert_eq!(error.kind, ErrorKind::WildcardRefused, "{address}");
    }
}

/// HG-10
#[test]
fn a_wildcard_listener_learns_the_address_and_answers_from_it() {
    let mut cases = vec![("0.0.0.0:0", vec!["127.0.0.1", "127.0.0.77"])];
    if ipv6_available() {
        cases.push(("[::]:0", vec!["::1"]));
    }
    for (wildcard, addresses) in cases {
        let options = SocketOptions { packet_info: true, ..SocketOptions::quic() };
        let mut listener = UdpSocket::open_listener(wildcard.parse().unwrap(), &options).unwrap();
        let port = listener.local_address().port();
        for address in addresses {
            let address = address.parse().unwrap();
            // Connected, so that an answer from any other address would never arrive.
            let mut client =
                UdpSocket::open_connected(SocketAddr::new(address, port), None, &SocketOptions::target()).unwrap();
            client.send_batch(&mut SendBatch::new(), &payloads(&[5]));
            readable(&listener);
            let mut batch = ReceiveBatch::new(1);
            listener.receive(&mut batch).unwrap();
            let train = batch.drain().next().unwrap();
            assert_eq!(train.local, Some(address));
            let answer = OutgoingTrain {
                remote: Some(train.remote),
                local: train.local,
                ecn: 1,
                segment_size: Some(3),
                data: b"abcdef",
            };
            assert_eq!(listener.send_train(&answer).sent, 2);
            let mut link = Link { flow: client, target: listener };
            assert_eq!(link.flow_receives(2), [Bytes::from("abc"), Bytes::from("def")], "{address}");
            listener = link.target;
        }
    }
}

/// C-19: the error belongs to the datagram that caused it; the socket lives and sends on.
#[test]
fn a_refused_datagram_is_reported_with_its_target_and_costs_no_other() {
    let mut addresses = vec![loopback()];
    if ipv6_available() {
        addresses.push("[::1]:0".parse().unwrap());
    }
    for address in addresses {
        let Link { mut flow, target } = Link::open(address);
        let gone = target.local_address();
        drop(target);
        let mut batch = SendBatch::new();
        assert_eq!(flow.send_batch(&mut batch, &payloads(&[10])).sent, 1);
        let event = readable(&flow);
        assert!(event.error, "{event:?}");
        // What the kernel wants to say about the first does not stop the second.
        assert_eq!(flow.send_batch(&mut batch, &payloads(&[20, 20, 30])).sent, 3, "{address}");
        assert_eq!(flow.receive_flow(&mut FlowBuffers::new(1), 1), Ok(0));
        readable(&flow);
        let mut reported = 0;
        while let Some(error) = flow.take_error() {
            assert_eq!((error.kind, error.remote, error.path_mtu), (ErrorKind::ConnectionRefused, Some(gone), None));
            reported += 1;
        }
        // 20, 20 leave as one train, which the kernel answers per datagram or as a whole.
        assert!((2..=4).contains(&reported), "{address}: {reported} reports");
        assert_eq!(flow.counters().reported.connection_refused, reported);
        assert_eq!(flow.counters().send_dropped.total(), 0);
        assert!(quiet(&flow), "nothing is left to tell");
        // The target comes back; the same flow reaches it.
        let target = UdpSocket::open_listener(gone, &SocketOptions::quic()).unwrap();
        let mut link = Link { flow, target };
        link.flow_sends(&payloads(&[7]));
        assert_eq!(link.target_receives(1), payloads(&[7]));
    }
}

/// A client socket is told which of its gateways does not answer.
#[test]
fn an_unconnected_client_learns_which_remote_refused() {
    let mut client = UdpSocket::open_client(loopback(), &SocketOptions::quic()).unwrap();
    let closed = std::net::UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let train = OutgoingTrain { remote: Some(closed), local: None, ecn: 0, segment_size: None, data: &[0; 1200] };
    client.send_train(&train);
    assert!(readable(&client).error);
    assert_eq!(client.receive(&mut ReceiveBatch::new(1)), Ok(0));
    let error = client.take_error().unwrap();
    assert_eq!((error.kind, error.remote), (ErrorKind::ConnectionRefused, Some(closed)));
    assert_eq!(client.take_error(), None);
    assert!(quiet(&client));
}

fn quiet(socket: &impl AsFd) -> bool {
    let poller = moretta_io::Poller::new().unwrap();
    let mut events = moretta_io::Events::with_capacity(1);
    poller.register(socket.as_fd(), 1, moretta_io::Interest::Readable, moretta_io::Trigger::Level).unwrap();
    poller.wait(&mut events, Some(std::time::Duration::ZERO)).unwrap();
    events.is_empty()
}

#[test]
fn a_flow_never_hears_strangers() {
    let mut link = Link::open(loopback());
    let mut stranger = UdpSocket::open_client(loopback(), &SocketOptions::quic()).unwrap();
    let remote = Some(link.flow.local_address());
    stranger.send_train(&OutgoingTrain { remote, local: None, ecn: 0, segment_size: None, data: b"forged" });
    link.target_sends(&payloads(&[4]));
    assert_eq!(link.flow_receives(1), payloads(&[4]));
    assert!(quiet(&link.flow));
}

#[test]
fn a_flow_uses_the_source_it_was_given() {
    let target = UdpSocket::open_listener(loopback(), &SocketOptions::quic()).unwrap();
    let source = "127.0.0.9:0".parse().unwrap();
    let flow = UdpSocket::open_connected(target.local_address(), Some(source), &SocketOptions::target()).unwrap();
    assert_eq!(flow.local_address().ip(), source.ip());
    assert_ne!(flow.local_address().port(), 0);
    assert_eq!(flow.remote_address(), Some(target.local_address()));
}

/// UDP ports run out with EAGAIN, which must not look like "not ready yet".
#[test]
fn an_exhausted_port_range_is_told_apart_from_would_block() {
    let target = UdpSocket::open_listener(loopback(), &SocketOptions::quic()).unwrap();
    let mut range = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range")
        .unwrap()
        .split_whitespace()
        .map(|port| port.parse::<u16>().unwrap())
        .collect::<Vec<_>>()
        .into_iter();
    let (low, high) = (range.next().unwrap(), range.next().unwrap());
    if high - low < 4 {
        println!("skipped: the global port range {low}-{high} leaves no slice");
        return;
    }
    // Near the upper end: automatic choices of other tests rarely land in so narrow a slice, and if one does, fewer
    // sockets fit, which changes nothing here.
    let slice = high - 3..=high;
    let options =
        SocketOptions { local_ports: Some(slice.clone()), receive_buffer_bytes: 8 << 10, ..SocketOptions::target() };
    let mut open = Vec::new();
    for source in [None, Some("127.0.0.1:0".parse().unwrap())] {
        let error = loop {
            match UdpSocket::open_connected(target.local_address(), source, &options) {
                Ok(flow) if slice.contains(&flow.local_address().port()) => open.push(flow),
                Ok(flow) => {
                    println!("skipped: IP_LOCAL_PORT_RANGE has no effect here ({})", flow.local_address());
                    return;
                }
                Err(error) => break error,
            }
            assert!(open.len() <= 4, "more flows than ports");
        };
        let operation = if source.is_some() { Operation::Bind } else { Operation::Connect };
        assert_eq!((error.operation, error.kind), (operation, ErrorKind::PortsExhausted));
    }
}
