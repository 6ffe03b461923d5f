use super::*;
use bytes::BytesMut;

fn train() -> Train {
    Train {
        link: LinkId(0),
        remote: "127.0.0.1:1".parse().unwrap(),
        local: None,
        ecn: 0,
        segment_size: 1,
        data: BytesMut::from(&b"x"[..]),
    }
}

#[test]
fn a_ring_that_is_full_drops_and_counts() {
    let mailbox = Mailbox::new().unwrap();
    for _ in 0..RING_TRAINS + 3 {
        mailbox.post_train(train());
    }
    assert_eq!(mailbox.ring_dropped(), 3);
    assert_eq!(std::iter::from_fn(|| mailbox.take_train()).count(), RING_TRAINS);
}

#[test]
fn a_busy_worker_costs_its_senders_no_system_call() {
    let mailbox = Mailbox::new().unwrap();
    mailbox.post(Message::Close);
    mailbox.post_train(train());
    mailbox.notify(7);
    assert!(!mailbox.wake_fd().drain(), "it is awake");
}

#[test]
fn a_worker_sleeps_only_when_nothing_waits_and_is_woken_by_each_kind() {
    let mailbox = Mailbox::new().unwrap();
    let posts: [fn(&Mailbox); 3] =
        [|mailbox| mailbox.post(Message::Close), |mailbox| mailbox.post_train(train()), |mailbox| mailbox.notify(7)];
    for post in posts {
        assert!(mailbox.arm(), "nothing waits");
        post(&mailbox);
        assert!(mailbox.wake_fd().drain());
        assert!(!mailbox.arm(), "something waits");
        mailbox.take_messages(&mut Vec::new());
        mailbox.take_notified(&mut Vec::new());
        while mailbox.take_train().is_some() {}
    }
}
