//! What an application may count on: the order of events on a stream, and what was promised once and for all.

use std::collections::BTreeMap;

use moretta_h3::{Action, Event, Role};

/// Where the events of one request stream stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Client: asked. Server: nothing told yet.
    Head,
    Content,
    Trailers,
    /// Finished, reset or aborted: nothing more of what the peer sends is told.
    Over,
}

#[derive(Clone, Copy, Debug)]
struct Stream {
    stage: Stage,
    /// The application knows of it. We reset others, too.
    is_told: bool,
    is_reset: bool,
    is_stop_told: bool,
    /// Both sides were ended by us or by the application: nothing is told any more.
    is_gone: bool,
}

#[derive(Debug)]
pub(super) struct Model {
    role: Role,
    streams: BTreeMap<u64, Stream>,
    is_closed: bool,
    settings: u32,
    goaway: Option<u64>,
    pub(super) requests: u64,
    pub(super) data_bytes: u64,
}

impl Model {
    pub(super) fn new(role: Role) -> Self {
        Self { role, streams: BTreeMap::new(), is_closed: false, settings: 0, goaway: None, requests: 0, data_bytes: 0 }
    }

    /// Whether the connection said that it is to be closed.
    pub(super) const fn is_closed(&self) -> bool {
        self.is_closed
    }

    fn stream(&mut self, stream_id: u64) -> &mut Stream {
        let new = Stream { stage: Stage::Head, is_told: false, is_reset: false, is_stop_told: false, is_gone: false };
        self.streams.entry(stream_id).or_insert(new)
    }

    /// Client: a request was sent.
    pub(super) fn asked(&mut self, stream_id: u64) {
        assert!(!self.streams.contains_key(&stream_id));
        self.stream(stream_id).is_told = true;
    }

    /// The application gave the stream up.
    pub(super) fn gave_up(&mut self, stream_id: u64) {
        if let Some(stream) = self.streams.get_mut(&stream_id) {
            stream.is_gone = true;
        }
    }

    /// Whether the application has heard of a request stream.
    pub(super) fn knows(&self, stream_id: u64) -> bool {
        self.streams.get(&stream_id).is_some_and(|stream| stream.is_told)
    }

    /// A stream of which the application knows.
    fn known(&mut self, stream_id: u64) -> &mut Stream {
        assert!(stream_id.is_multiple_of(4), "{stream_id} carries no requests");
        let stream = self.streams.get_mut(&stream_id).expect("an event of a stream that nobody announced");
        assert!(stream.is_told, "an event of stream {stream_id}, which nobody announced");
        assert!(!stream.is_gone, "an event of stream {stream_id}, which was given up");
        stream
    }

    pub(super) fn action(&mut self, action: &Action) {
        assert!(!self.is_closed, "{action:?} after Close");
        match *action {
            Action::OpenUni { .. } | Action::StopSending { .. } => {}
            Action::Reset { stream_id, .. } => {
                assert!(stream_id.is_multiple_of(4), "{stream_id} is not ours to reset");
                let stream = self.stream(stream_id);
                assert!(!std::mem::replace(&mut stream.is_reset, true), "stream {stream_id} reset twice");
            }
            Action::Close { .. } => self.is_closed = true,
        }
    }

    pub(super) fn event(&mut self, event: &Event) {
        match event {
            Event::Settings => {
                self.settings += 1;
                assert_eq!(self.settings, 1, "SETTINGS come once");
            }
            Event::GoAway { id } => {
                assert!(self.goaway.is_none_or(|earlier| *id <= earlier), "GOAWAY never grows");
                self.goaway = Some(*id);
            }
            Event::Request { stream_id, head, fin } => {
                assert_eq!(self.role, Role::Server);
                assert!(!head.method.is_empty());
                assert!(stream_id.is_multiple_of(4) && !self.streams.contains_key(stream_id), "{stream_id} told twice");
                self.requests += 1;
                let stream = self.stream(*stream_id);
                stream.stage = if *fin { Stage::Over } else { Stage::Content };
                stream.is_told = true;
            }
            Event::Response { stream_id, head, interim, fin } => {
                assert_eq!(self.role, Role::Client);
                assert_eq!(*interim, (100..200).contains(&head.status));
                assert!((100..1000).contains(&head.status) && head.status != 101);
                let stream = self.known(*stream_id);
                assert_eq!(stream.stage, Stage::Head, "a response after the final one");
                match (*interim, *fin) {
                    (true, false) => {}
                    (true, true) => panic!("an interim response cannot be the end"),
                    (false, false) => stream.stage = Stage::Content,
                    (false, true) => stream.stage = Stage::Over,
                }
            }
            Event::Data { stream_id, bytes } => {
                assert!(!bytes.is_empty());
                self.data_bytes += bytes.len() as u64;
                assert_eq!(self.known(*stream_id).stage, Stage::Content);
            }
            Event::Trailers { stream_id, fields } => {
                assert!(fields.iter().all(|field| !field.name.starts_with(b":")));
                let stream = self.known(*stream_id);
                assert_eq!(std::mem::replace(&mut stream.stage, Stage::Trailers), Stage::Content);
            }
            Event::Finished { stream_id } => {
                let stream = self.known(*stream_id);
                let before = std::mem::replace(&mut stream.stage, Stage::Over);
                assert!(matches!(before, Stage::Content | Stage::Trailers), "finished in {before:?}");
            }
            Event::Reset { stream_id, .. } => {
                let stream = self.known(*stream_id);
                assert_ne!(std::mem::replace(&mut stream.stage, Stage::Over), Stage::Over, "reset after the end");
            }
            Event::StopSending { stream_id, .. } => {
                let stream = self.known(*stream_id);
                assert!(!std::mem::replace(&mut stream.is_stop_told, true), "told twice");
            }
            Event::Aborted { stream_id, .. } => self.known(*stream_id).is_gone = true,
        }
    }
}
