use super::*;
use crate::border::PROMISE_LIMIT;

#[derive(Debug, Default)]
struct Notified(AtomicU64);

impl Notify for Notified {
    fn notify(&self, _token: u64) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

fn tunnel() -> (TunnelQueue, Arc<Notified>, Arc<Border>) {
    let border = Arc::new(Border::new(PROMISE_LIMIT).unwrap());
    let notified = Arc::new(Notified::default());
    (TunnelQueue::new(7, Arc::<Notified>::clone(&notified), Arc::clone(&border)), notified, border)
}

fn received(tunnel: &TunnelQueue, limit: usize) -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    tunnel.receive_many(limit, |datagram| all.push(datagram.to_vec()));
    all
}

#[test]
fn datagrams_leave_as_trains_of_equal_sizes_and_order_is_kept() {
    let (tunnel, _, _) = tunnel();
    for datagram in [&b"aaaa"[..], b"bbbb", b"cc", b"dddd", b"", b"", b"eeeeee"] {
        assert_eq!(tunnel.send(datagram), SendOutcome::Queued);
    }
    let mut train = Vec::new();
    let mut trains = Vec::new();
    while let Some(segment) = tunnel.take_train(usize::MAX, &mut train) {
        trains.push((segment, String::from_utf8(train.clone()).unwrap()));
    }
    let expected = [(4, "aaaabbbbcc"), (4, "dddd"), (0, ""), (0, ""), (6, "eeeeee")];
    assert_eq!(trains, expected.map(|(size, text)| (size, text.to_owned())));
}

#[test]
fn a_share_smaller_than_a_datagram_still_lets_one_pass() {
    let (tunnel, _, _) = tunnel();
    tunnel.send(b"aaaa");
    tunnel.send(b"bbbb");
    let mut train = Vec::new();
    assert_eq!(tunnel.take_train(1, &mut train), Some(4));
    assert_eq!(train, b"aaaa");
}

#[test]
fn the_worker_is_notified_once_until_it_found_the_queue_empty() {
    let (tunnel, notified, _) = tunnel();
    tunnel.send(b"a");
    tunnel.send(b"b");
    assert_eq!(notified.0.load(Ordering::SeqCst), 1);
    let mut train = Vec::new();
    while tunnel.take_train(1, &mut train).is_some() {}
    tunnel.send(b"c");
    assert_eq!(notified.0.load(Ordering::SeqCst), 2);
}

#[test]
fn send_drops_the_newest_when_full_and_counts_it() {
    let (tunnel, _, _) = tunnel();
    let datagram = vec![0; 60_000];
    let fitting = QUEUE_BYTES / (60_000 + DATAGRAM_OVERHEAD);
    for _ in 0..fitting {
        assert_eq!(tunnel.send(&datagram), SendOutcome::Queued);
    }
    assert_eq!(tunnel.send(&datagram), SendOutcome::Dropped);
    assert_eq!(tunnel.counters().send_dropped, 1);
}

#[test]
fn towards_the_application_the_oldest_give_way_and_are_counted() {
    let (tunnel, _, _) = tunnel();
    let datagrams: Vec<Vec<u8>> = (0..40u8).map(|number| vec![number; 60_000]).collect();
    tunnel.deliver(datagrams.iter().map(Vec::as_slice));
    let kept = QUEUE_BYTES / (60_000 + DATAGRAM_OVERHEAD);
    let taken = received(&tunnel, 100);
    assert_eq!(taken.len(), kept);
    assert_eq!(taken[0][0] as usize, 40 - kept);
    assert_eq!(tunnel.counters().receive_dropped as usize, 40 - kept);
}

#[test]
fn empty_datagrams_are_bounded_too() {
    let (tunnel, _, _) = tunnel();
    let accepted = (0..200_000).filter(|_| tunnel.send(b"") == SendOutcome::Queued).count();
    assert_eq!(accepted, QUEUE_BYTES / DATAGRAM_OVERHEAD);
}

#[test]
fn a_datagram_that_does_not_fit_is_refused_with_the_largest_that_does() {
    let (tunnel, _, _) = tunnel();
    tunnel.set_max_datagram_bytes(1200);
    assert_eq!(tunnel.send(&[0; 1201]), SendOutcome::TooLarge { max: 1200 });
    assert_eq!(tunnel.send(&[0; 1200]), SendOutcome::Queued);
}

#[test]
fn a_closed_tunnel_still_hands_out_what_it_received() {
    let (tunnel, _, border) = tunnel();
    tunnel.deliver([&b"last"[..]].into_iter());
    tunnel.set_state(TunnelState::Closed);
    assert_eq!(tunnel.send(b"a"), SendOutcome::Closed);
    assert_eq!(border.take_ready(8), [7]);
    assert_eq!(received(&tunnel, 8), [b"last".to_vec()]);
}

#[test]
fn datagrams_survive_the_wrap_of_the_ring() {
    let (tunnel, _, _) = tunnel();
    let mut expected = 0u32;
    for number in 0..50_000u32 {
        tunnel.deliver([&number.to_be_bytes().repeat(1 + number as usize % 9)[..]].into_iter());
        if number % 3 == 2 {
            for datagram in received(&tunnel, 8) {
                assert_eq!(datagram, expected.to_be_bytes().repeat(1 + expected as usize % 9));
                expected += 1;
            }
        }
    }
}
