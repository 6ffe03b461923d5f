use super::*;
use crate::document::{Drained, RecordRefused};
use moretta_io::{Events, Interest, Poller, Trigger};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

struct Watch {
    poller: Poller,
    events: Events,
}

impl Watch {
    fn new(border: &Border) -> Self {
        let poller = Poller::new().unwrap();
        poller.register(border.wake.as_fd(), 0, Interest::Readable, Trigger::Level).unwrap();
        Self { poller, events: Events::with_capacity(1) }
    }

    fn readable(&mut self, timeout: Duration) -> bool {
        self.poller.wait(&mut self.events, Some(timeout)).unwrap();
        !self.events.is_empty()
    }
}

fn border() -> Border {
    Border::new(PROMISE_LIMIT).unwrap()
}

fn refusal() -> Event {
    Event::RecordRefused(RecordRefused {
        listener: "main".into(),
        client: "127.0.0.1:1".parse().unwrap(),
        target_host: None,
        target_port: None,
        reason: "policy_refused".into(),
        status: Some(403),
        rule: None,
        detail: None,
        unix_seconds: 0.0,
    })
}

#[test]
fn one_wake_up_serves_a_burst_and_the_next_take_that_finds_nothing_arms_the_next() {
    let border = border();
    let mut watch = Watch::new(&border);
    for _ in 0..100 {
        border.push_reserved(Event::Drained(Drained {}));
    }
    assert_eq!(border.counts().wakes, 1);
    assert!(watch.readable(Duration::ZERO));
    assert_eq!(border.take_events(60).len(), 60);
    assert!(watch.readable(Duration::ZERO), "what is left keeps the descriptor readable");
    assert_eq!(border.take_events(60).len(), 40);
    assert!(!watch.readable(Duration::ZERO));
    border.push_reserved(Event::Drained(Drained {}));
    assert_eq!(border.counts().wakes, 2);
    assert!(watch.readable(Duration::ZERO));
}

#[test]
fn records_wait_for_company_but_not_for_more_of_it_than_a_batch() {
    let border = border();
    let mut watch = Watch::new(&border);
    for queued in 1..RECORDS_AT_ONCE {
        if queued % 2 == 0 {
            border.push_refusal(refusal());
        } else {
            border.push_record(Event::Drained(Drained {}));
        }
        assert!(!watch.readable(Duration::ZERO), "{queued} records woke control code");
    }
    border.push_record(Event::Drained(Drained {}));
    assert!(watch.readable(Duration::ZERO));
    assert_eq!(border.take_events(1000).len(), RECORDS_AT_ONCE);
    assert!(!watch.readable(Duration::ZERO));
}

#[test]
fn whoever_rings_wakes_for_records_that_wait_and_for_nothing_else() {
    let border = border();
    let mut watch = Watch::new(&border);
    border.ring();
    assert!(!watch.readable(Duration::ZERO));
    border.push_record(Event::Drained(Drained {}));
    border.ring();
    border.ring();
    assert!(watch.readable(Duration::ZERO));
    assert_eq!((border.counts().wakes, border.take_events(8).len()), (1, 1));
    border.push_record(Event::Drained(Drained {}));
    border.push(Event::Drained(Drained {}));
    assert!(watch.readable(Duration::ZERO), "what is waited for brings the records with it");
    assert_eq!(border.take_events(8).len(), 2);
}

#[test]
fn the_descriptor_stays_readable_while_the_other_queue_has_something() {
    let border = border();
    let mut watch = Watch::new(&border);
    border.push_reserved(Event::Drained(Drained {}));
    border.push_ready(7);
    assert_eq!(border.take_events(8).len(), 1);
    assert!(watch.readable(Duration::ZERO), "a tunnel still has news");
    assert_eq!(border.take_ready(8), [7]);
    assert!(!watch.readable(Duration::ZERO));
}

/// A take that skipped expired entries once read as empty and the wake-up was lost for good.
#[test]
fn a_take_that_exactly_meets_its_limit_does_not_lose_the_wake_up() {
    let border = border();
    let mut watch = Watch::new(&border);
    for _ in 0..4 {
        border.push_reserved(Event::Drained(Drained {}));
    }
    assert_eq!(border.take_events(4).len(), 4);
    assert!(watch.readable(Duration::ZERO), "nothing said that it was empty");
    assert!(border.take_events(4).is_empty());
    assert!(!watch.readable(Duration::ZERO));
}

#[test]
fn no_wake_up_is_lost_between_threads() {
    const EACH: usize = 20_000;
    let border = Arc::new(border());
    let producers: Vec<_> = (0..2)
        .map(|producer| {
            let border = Arc::clone(&border);
            std::thread::spawn(move || {
                for number in 0..EACH {
                    if producer == 0 {
                        border.push_reserved(Event::Drained(Drained {}));
                    } else {
                        border.push_ready(number as u64);
                    }
                }
            })
        })
        .collect();
    let mut watch = Watch::new(&border);
    let (mut events, mut ready) = (0, 0);
    while events + ready < 2 * EACH {
        assert!(watch.readable(Duration::from_secs(10)), "slept over {events} events and {ready} tokens");
        events += border.take_events(16).len();
        ready += border.take_ready(16).len();
    }
    for producer in producers {
        producer.join().unwrap();
    }
    assert_eq!((events, ready), (EACH, EACH));
    // Short takes said that nothing is left; the descriptor must have become quiet.
    border.take_events(1);
    border.take_ready(1);
    assert!(!watch.readable(Duration::ZERO));
    assert_eq!(border.counts().promised, 0);
}

#[test]
fn refusal_records_are_shed_when_full_and_counted_but_promised_events_are_not() {
    let border = border();
    for _ in 0..REFUSAL_LIMIT + 5 {
        border.push_refusal(refusal());
    }
    border.push_reserved(Event::Drained(Drained {}));
    assert_eq!(border.counts().shed, 5);
    let taken = border.take_events(usize::MAX);
    assert_eq!(taken.len(), REFUSAL_LIMIT + 1);
    assert_eq!(taken.last(), Some(&Event::Drained(Drained {})));
    border.push_refusal(refusal());
    assert_eq!(border.take_events(8).len(), 1, "there is room again");
}

#[test]
fn promises_are_bounded_and_come_back() {
    let border = Border::new(3).unwrap();
    assert!(border.promise(2));
    assert!(!border.promise(2));
    border.push(Event::Drained(Drained {}));
    assert!(border.promise(1), "a queued event holds its own promise and no more");
    assert!(!border.promise(1));
    border.take_events(8);
    border.release(1);
    assert!(border.promise(2));
}
