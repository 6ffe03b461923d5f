//! HTTP/3 over QUIC streams: reads what can be consumed, writes until blocked, and does what HTTP/3 asks of QUIC.

use bytes::Bytes;
use moretta_h3::code::H3_REQUEST_REJECTED;
use moretta_h3::{Action, Event};
use moretta_proto::Now;
use quinn_proto::{Dir, ReadError, ReadableError, StreamEvent, StreamId, VarInt, WriteError};

use crate::connection::{Connection, DrainStage, End, Stage};
use crate::core::Core;
use crate::output::Outputs;

/// Bytes read at once from a stream whose request may not be decided yet: what is read releases credit, so that no more
/// of an undecided request than this ever has to be held.
const UNDECIDED_READ_BYTES: usize = 4096;
/// How long packets are copied after a stream was found to hold bytes. One slab in that time is what a client can pin.
const COPY_TIME: std::time::Duration = std::time::Duration::from_secs(3);
/// Buffers handed to QUIC in one call.
const WRITE_BUFFERS: usize = 8;

/// The library's identifier of a stream.
pub(crate) fn stream_id(id: u64) -> StreamId {
    StreamId::from(varint(id))
}

/// Codes and ids of HTTP/3 fit by construction; anything larger would be a bug, and becomes the largest.
pub(crate) fn varint(value: u64) -> VarInt {
    VarInt::from_u64(value).unwrap_or(VarInt::MAX)
}

impl Core {
    /// Handles one event of the library about streams.
    pub(crate) fn handle_stream_event(
        &mut self,
        connection: &mut Connection,
        now: Now,
        event: &StreamEvent,
        out: &mut Outputs,
    ) {
        match *event {
            StreamEvent::Opened { dir } => {
                while let Some(id) = connection.quic.streams().accept(dir) {
                    self.read_stream(connection, now, id, out);
                }
                if dir == Dir::Bi {
                    self.raise_stream_limit(connection);
                }
            }
            StreamEvent::Readable { id } => self.read_stream(connection, now, id, out),
            StreamEvent::Writable { id } => connection.http.unblocked(id.into()),
            StreamEvent::Stopped { id, error_code } => {
                connection.http.handle_stop_sending(id.into(), error_code.into_inner());
                self.http_events(connection, now, out);
            }
            StreamEvent::Available { dir: Dir::Uni } => open_uni_streams(connection),
            StreamEvent::Available { dir: Dir::Bi } => self.streams_available(connection),
            StreamEvent::Finished { .. } => {}
        }
        connection.http_dirty = true;
    }

    /// More streams for a client that uses those it has; each costs memory whether it is used or not.
    fn raise_stream_limit(&mut self, connection: &mut Connection) {
        if !matches!(connection.end, End::Server(_)) || connection.drain != DrainStage::Not {
            return;
        }
        let most = self.snapshot.proto.limits.max_tunnels_per_connection as u64;
        let now = connection.quic.max_concurrent_streams(Dir::Bi);
        let open = connection.quic.streams().remote_open_streams(Dir::Bi);
        if now < most && open * 4 >= now * 3 {
            connection.quic.set_max_concurrent_streams(Dir::Bi, varint((now * 2).min(most)));
        }
    }

    /// Reads a stream until it has no more, or until its request has to be decided first.
    fn read_stream(&mut self, connection: &mut Connection, now: Now, id: StreamId, out: &mut Outputs) {
        let stream = u64::from(id);
        loop {
            let (most, decided) = match self.reading(connection, stream) {
                Reading::Everything => (usize::MAX, true),
                Reading::ALittle => (UNDECIDED_READ_BYTES, false),
                Reading::NothingNow => {
                    self.look_for_reset(connection, now, id, out);
                    return;
                }
            };
            let mut end = StreamEnd::Open;
            let (mut more, mut any) = (false, false);
            {
                let mut recv = connection.quic.recv_stream(id);
                let mut chunks = match recv.read(true) {
                    Ok(chunks) => chunks,
                    // Stopped, finished or reset before; ordered reads only, so that the other error cannot happen.
                    Err(ReadableError::ClosedStream | ReadableError::IllegalOrderedRead) => return,
                };
                let mut left = most;
                while left > 0 {
                    match chunks.next(left) {
                        Ok(Some(chunk)) => {
                            left -= chunk.bytes.len().min(left);
                            self.read_chunks.push(chunk.bytes);
                            (more, any) = (true, true);
                        }
                        Ok(None) => {
                            end = StreamEnd::Finished;
                            break;
                        }
                        Err(ReadError::Blocked) => {
                            more = false;
                            break;
                        }
                        Err(ReadError::Reset(code)) => {
                            end = StreamEnd::Reset(code.into_inner());
                            break;
                        }
                    }
                }
                // Dropping the chunks releases their flow-control credit.
            }
            if any {
                connection.last_read = Some(stream);
            } else if matches!(end, StreamEnd::Open) && connection.last_read != Some(stream) {
                // Several frames of one stream in one turn are read at once and reported one by one.
                self.streams_hold_bytes(now);
            }
            self.feed_http(connection, now, stream, &end);
            self.http_events(connection, now, out);
            // With everything read there is nothing more until the library says so; after a little there may be.
            if !matches!(end, StreamEnd::Open) || decided || !more || connection.stage == Stage::Closed {
                return;
            }
        }
    }

    fn feed_http(&mut self, connection: &mut Connection, now: Now, stream: u64, end: &StreamEnd) {
        let mut chunks = std::mem::take(&mut self.read_chunks);
        let count = chunks.len();
        let finished = matches!(end, StreamEnd::Finished);
        for (index, chunk) in chunks.drain(..).enumerate() {
            connection.http.handle_stream(now.instant, stream, chunk, finished && index + 1 == count);
        }
        self.read_chunks = chunks;
        match end {
            StreamEnd::Finished if count == 0 => connection.http.handle_stream(now.instant, stream, Bytes::new(), true),
            StreamEnd::Reset(code) => connection.http.handle_reset(stream, *code),
            StreamEnd::Open | StreamEnd::Finished => {}
        }
    }

    /// A stream that is not read may still be reset, which cancels its request.
    fn look_for_reset(&mut self, connection: &mut Connection, now: Now, id: StreamId, out: &mut Outputs) {
        let stream = u64::from(id);
        if let Ok(Some(code)) = connection.quic.recv_stream(id).received_reset() {
            connection.unread.retain(|unread| *unread != stream);
            connection.http.handle_reset(stream, code.into_inner());
            self.http_events(connection, now, out);
        } else if !connection.unread.contains(&stream) {
            connection.unread.push(stream);
        }
        self.streams_hold_bytes(now);
    }

    /// A stream has bytes that cannot be read yet: behind a gap, or of a request that is not decided.
    ///
    /// The library keeps them as slices of the packets they came in, and so a single byte would pin the slab of a whole
    /// train. For a while packets are copied on their way in; where nothing is lost and nothing waits, none is.
    fn streams_hold_bytes(&mut self, now: Now) {
        self.copy_until = now.instant + COPY_TIME;
    }

    /// Reads a stream again whose request is decided now.
    pub(crate) fn resume_reading(&mut self, connection: &mut Connection, now: Now, stream: u64, out: &mut Outputs) {
        if let Some(at) = connection.unread.iter().position(|unread| *unread == stream) {
            connection.unread.swap_remove(at);
            self.read_stream(connection, now, stream_id(stream), out);
        }
    }

    /// Handles everything that HTTP/3 has to say.
    pub(crate) fn http_events(&mut self, connection: &mut Connection, now: Now, out: &mut Outputs) {
        connection.http_dirty = true;
        while let Some(event) = connection.http.poll_event() {
            match event {
                Event::Settings => self.peer_settings(connection, out),
                Event::Request { stream_id, head, fin } => self.request(connection, now, stream_id, &head, fin, out),
                Event::Response { stream_id, head, interim: false, fin } => {
                    self.response(connection, now, stream_id, &head, fin, out);
                }
                Event::Data { stream_id, bytes } => self.stream_data(connection, now, stream_id, &bytes, out),
                // 1xx says nothing about the outcome (RFC 9110 §15.2). Trailers: a tunnel has none: `moretta-h3` closes the connection (CAP-32). Of other requests nothing is wanted.
                Event::Response { .. } | Event::Trailers { .. } => {}
                Event::Finished { stream_id } => self.stream_finished(connection, now, stream_id, out),
                Event::Reset { stream_id, .. } => self.stream_reset(connection, now, stream_id, out),
                Event::StopSending { stream_id, code } => self.stream_stopped(connection, now, stream_id, code, out),
                Event::Aborted { stream_id, code, .. } => self.stream_aborted(connection, now, stream_id, code, out),
                Event::GoAway { id } => self.peer_goes_away(connection, now, id, out),
            }
        }
    }

    /// Does what HTTP/3 asks of QUIC and writes what it has to write.
    pub(crate) fn http_output(&mut self, connection: &mut Connection, now: Now, out: &mut Outputs) {
        if !connection.http_dirty || connection.stage != Stage::Open {
            return;
        }
        connection.http_dirty = false;
        self.http_actions(connection, now, out);
        while let Some(stream) = connection.http.poll_writable() {
            write_stream(connection, stream);
        }
        // Writing may have finished streams, and so asked for more.
        self.http_actions(connection, now, out);
    }

    fn http_actions(&mut self, connection: &mut Connection, now: Now, out: &mut Outputs) {
        while let Some(action) = connection.http.poll_action() {
            match action {
                Action::OpenUni { kind } => {
                    connection.unopened.push(kind);
                    open_uni_streams(connection);
                }
                // Both fail only for streams that are over, which is what they ask for.
                Action::Reset { stream_id: id, code } => {
                    self.counters.requests_rejected += u64::from(code == H3_REQUEST_REJECTED);
                    let _over = connection.quic.send_stream(stream_id(id)).reset(varint(code));
                }
                Action::StopSending { stream_id: id, code } => {
                    connection.unread.retain(|unread| *unread != id);
                    let _over = connection.quic.recv_stream(stream_id(id)).stop(varint(code));
                }
                Action::Close { code, reason } => {
                    self.counters.closed_http_errors += 1;
                    self.close_connection(connection, now, code, reason, out);
                    return;
                }
            }
        }
    }
}

enum StreamEnd {
    Open,
    Finished,
    Reset(u64),
}

/// How much of a stream may be read now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reading {
    Everything,
    ALittle,
    NothingNow,
}

/// Opens the streams that HTTP/3 waits for, as far as the peer lets us.
fn open_uni_streams(connection: &mut Connection) {
    while let Some(&kind) = connection.unopened.first() {
        let Some(id) = connection.quic.streams().open(Dir::Uni) else { return };
        connection.unopened.remove(0);
        // SETTINGS and GOAWAY go before everything else. The stream was opened just now, so that this cannot fail.
        let _opened = connection.quic.send_stream(id).set_priority(i32::MAX);
        connection.http.handle_uni_opened(kind, id.into());
    }
}

/// Hands QUIC what HTTP/3 has for one stream.
fn write_stream(connection: &mut Connection, stream: u64) {
    let id = stream_id(stream);
    loop {
        let front = connection.http.front(stream);
        if front.is_empty() {
            break;
        }
        let mut buffers: [Bytes; WRITE_BUFFERS] = Default::default();
        let mut count = 0;
        for (buffer, from) in buffers.iter_mut().zip(front) {
            *buffer = from.clone();
            count += 1;
        }
        let Some(buffers) = buffers.get_mut(..count) else { break };
        match connection.quic.send_stream(id).write_chunks(buffers) {
            // Less than was offered says that a window is full, but the library promises `Writable` only to a stream that
            // was told `Blocked`: hence once more.
            Ok(written) => connection.http.wrote(stream, written.bytes),
            // `Stopped` is reported as an event of its own, `ClosedStream` comes after a reset of ours.
            Err(WriteError::Blocked | WriteError::Stopped(_) | WriteError::ClosedStream) => {
                connection.http.blocked(stream);
                return;
            }
        }
    }
    if connection.http.wants_fin(stream) {
        // Fails only if the stream is over already.
        let _over = connection.quic.send_stream(id).finish();
        connection.http.wrote_fin(stream);
    }
}
