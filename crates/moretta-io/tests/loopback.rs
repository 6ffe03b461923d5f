//! Sockets on loopback: what goes in comes out, whole, in order and from the right address.
#![cfg(test)]

mod common;

use std::net::SocketAddr;

use bytes::Bytes;
use common::{Link, ipv6_available, readable};
use moretta_io::{ErrorKind, FlowBuffers, OutgoingTrain, ReceiveBatch, SendBatch, SocketOptions, UdpSocket};

const LOOPBACK: [&str; 2] = ["127.0.0.1:0", "[::1]:0"];

fn addresses() -> Vec<SocketAddr> {
    let all = LOOPBACK.iter().map(|text| text.parse().unwrap());
    all.filter(|address: &SocketAddr| address.is_ipv4() || ipv6_available()).collect()
}

#[test]
fn a_train_arrives_whole_with_its_sender_and_ecn() {
    for address in addresses() {
        let mut listener = UdpSocket::open_listener(address, &SocketOptions::quic()).unwrap();
        let mut client = UdpSocket::open_client(address, &SocketOptions::quic()).unwrap();
        let data: Vec<u8> = (0..1200_u32 * 9 + 77).map(|byte| (byte % 251) as u8).collect();
        for (id, ecn) in [("Not-ECT", 0), ("ECT(1)", 1), ("ECT(0)", 2), ("CE", 3)] {
            let train = OutgoingTrain {
                remote: Some(listener.local_address()),
                local: None,
                ecn,
                segment_size: Some(1200),
                data: &data,
            };
            let outcome = client.send_train(&train);
            assert_eq!((outcome.sent, outcome.dropped, outcome.error), (10, 0, None), "{address} {id}");
            let mut batch = ReceiveBatch::new(4);
            let mut received = Vec::new();
            while received.len() < data.len() {
                readable(&listener);
                listener.receive(&mut batch).unwrap();
                for train in batch.drain() {
                    assert_eq!(train.remote, client.local_address(), "{address} {id}");
                    assert_eq!(train.ecn, ecn, "{address} {id}");
                    assert_eq!(train.segment_size, 1200.min(train.data.len()));
                    assert_eq!(train.local, None);
                    received.extend(train.data);
                }
            }
            assert!(received == data, "{address} {id}: bytes differ");
        }
        assert_eq!(listener.counters().datagrams_received, 40);
        assert_eq!(listener.counters().bytes_received, 4 * data.len() as u64);
        assert_eq!(client.counters().datagrams_sent, 40);
    }
}

#[test]
fn a_batch_of_mixed_sizes_arrives_in_order_and_empty_payloads_too() {
    for address in addresses() {
        let mut link = Link::open(address);
        let sizes = [1200, 1200, 1200, 64, 0, 64, 64, 700, 0, 0, 1, 1400, 1400, 3];
        let payloads: Vec<Bytes> = common::payloads(&sizes);
        let outcome = link.flow.send_batch(&mut SendBatch::new(), &payloads);
        assert_eq!((outcome.sent, outcome.dropped), (sizes.len(), 0));
        assert_eq!(link.target_receives(sizes.len()), payloads, "{address}");
        // 1200×3+64 | 0 | 64×2 | 700 | 0 | 0 | 1 | 1400×2+3, all in one call.
        assert_eq!(link.flow.counters().send_calls, 1);
    }
}

#[test]
fn a_batch_longer_than_one_call_takes_arrives_in_order() {
    let mut link = Link::open("127.0.0.1:0".parse().unwrap());
    let mut batch = SendBatch::new();
    // Sizes that rise one by one never share a train: 150 runs.
    let rising: Vec<Bytes> = common::payloads(&(1..=150).collect::<Vec<_>>());
    assert_eq!(link.flow.send_batch(&mut batch, &rising).sent, 150);
    assert_eq!(link.target_receives(150), rising);
    // More equal payloads than one train takes, by count and by bytes.
    for size in [64, 1400] {
        let equal: Vec<Bytes> = common::payloads(&[size; 200]);
        assert_eq!(link.flow.send_batch(&mut batch, &equal).sent, 200);
        assert_eq!(link.target_receives(200), equal);
    }
}

#[test]
fn a_flow_receives_trains_and_single_datagrams_with_their_sizes() {
    for address in addresses() {
        let mut link = Link::open(address);
        let payloads = common::payloads(&[500, 500, 500, 20, 0, 65_000]);
        link.target_sends(&payloads);
        assert_eq!(link.flow_receives(payloads.len()), payloads, "{address}");
    }
}

#[test]
fn the_message_limit_leaves_the_rest_for_the_next_call() {
    let mut link = Link::open("127.0.0.1:0".parse().unwrap());
    for payload in common::payloads(&[10, 20, 30]) {
        link.target_sends(&[payload]);
    }
    readable(&link.flow);
    let mut buffers = FlowBuffers::new(8);
    for expected in [10, 20, 30] {
        assert_eq!(link.flow.receive_flow(&mut buffers, 1).unwrap(), 1);
        assert_eq!(buffers.iter().map(|(data, _)| data.len()).collect::<Vec<_>>(), [expected]);
    }
    assert_eq!(link.flow.receive_flow(&mut buffers, 1).unwrap(), 0);
    assert_eq!(buffers.iter().count(), 0);
}

/// UDP-48, UDP-49: what exceeds the interface is not fragmented; it alone is dropped, and counted.
#[test]
fn an_oversize_payload_costs_none_of_its_neighbours() {
    for address in addresses() {
        let mut link = Link::open(address);
        let too_long = 65_535;
        let payloads = common::payloads(&[100, 100, too_long, 100, too_long, 50]);
        let outcome = link.flow.send_batch(&mut SendBatch::new(), &payloads);
        assert_eq!((outcome.sent, outcome.dropped), (4, 2), "{address}");
        assert_eq!(outcome.error, Some(ErrorKind::MessageTooLong));
        let arrived: Vec<Bytes> = payloads.iter().filter(|payload| payload.len() < too_long).cloned().collect();
        assert_eq!(link.target_receives(4), arrived, "{address}");
        let counters = link.flow.counters();
        assert_eq!((counters.send_dropped.message_too_long, counters.send_dropped.total()), (2, 2));
        assert_eq!(counters.fallback_gso, 0);
        assert!(link.flow.take_error().is_none(), "what the call said is not said again");
    }
}

#[test]
fn slabs_are_used_again_once_their_slices_are_gone() {
    let mut listener = UdpSocket::open_listener("127.0.0.1:0".parse().unwrap(), &SocketOptions::quic()).unwrap();
    let mut client = UdpSocket::open_client("127.0.0.1:0".parse().unwrap(), &SocketOptions::quic()).unwrap();
    let mut batch = ReceiveBatch::new(2);
    let allocated = batch.slabs_allocated();
    let data = vec![7; 40_000];
    let mut round = |kept: &mut Vec<Bytes>, batch: &mut ReceiveBatch| {
        let remote = Some(listener.local_address());
        let train = OutgoingTrain { remote, local: None, ecn: 0, segment_size: Some(1000), data: &data };
        assert_eq!(client.send_train(&train).sent, 40);
        let mut missing = data.len();
        while missing > 0 {
            readable(&listener);
            listener.receive(batch).unwrap();
            for train in batch.drain() {
                missing -= train.data.len();
                let bytes = train.data.freeze();
                kept.push(bytes.slice(1..2));
            }
        }
    };
    for _ in 0..100 {
        round(&mut Vec::new(), &mut batch);
    }
    assert_eq!(batch.slabs_allocated(), allocated, "slices dropped at once cost no slab");
    let mut kept = Vec::new();
    for _ in 0..10 {
        round(&mut kept, &mut batch);
    }
    let peak = batch.slabs_allocated();
    assert!(peak > allocated, "slices kept for ever cost slabs");
    assert!(kept.iter().all(|byte| byte[..] == [7]), "what is kept is never written over");
    kept.clear();
    for _ in 0..100 {
        round(&mut Vec::new(), &mut batch);
    }
    assert_eq!(batch.slabs_allocated(), peak, "and those are used again too");
}
