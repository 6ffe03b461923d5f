//! What a peer can do wrong: one row per reason, with its scope, code, text and counter.

use crate::code::{
    H3_CLOSED_CRITICAL_STREAM, H3_DATAGRAM_ERROR, H3_EXCESSIVE_LOAD, H3_FRAME_ERROR, H3_FRAME_UNEXPECTED, H3_ID_ERROR,
    H3_MESSAGE_ERROR, H3_MISSING_SETTINGS, H3_REQUEST_INCOMPLETE, H3_SETTINGS_ERROR, H3_STREAM_CREATION_ERROR,
    QPACK_DECODER_STREAM_ERROR, QPACK_DECOMPRESSION_FAILED, QPACK_ENCODER_STREAM_ERROR,
};

/// What a fault costs the peer (RFC 9114 §8).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// The stream.
    Stream,
    /// The connection.
    Connection,
}

macro_rules! faults {
    ($($(#[$doc:meta])* $variant:ident, $counter:ident, $scope:ident, $code:ident, $text:literal;)*) => {
        /// A rule the peer broke.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[non_exhaustive]
        pub enum Fault { $($(#[$doc])* $variant,)* }

        impl Fault {
            /// Every fault, in the order of the table.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// Whether the stream or the connection ends.
            pub const fn scope(self) -> Scope {
                match self { $(Self::$variant => Scope::$scope,)* }
            }

            /// The error code it ends with.
            pub const fn code(self) -> u64 {
                match self { $(Self::$variant => $code,)* }
            }

            /// A text for logs and for CONNECTION_CLOSE.
            pub const fn text(self) -> &'static str {
                match self { $(Self::$variant => $text,)* }
            }
        }

        /// How often each fault happened.
        #[derive(Clone, Debug, Default, PartialEq, Eq)]
        pub struct FaultCounters { $($(#[$doc])* pub $counter: u64,)* }

        impl FaultCounters {
            /// Name and value of every counter, in a fixed order.
            pub fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> {
                [$((stringify!($counter), self.$counter),)*].into_iter()
            }

            pub(crate) fn count(&mut self, fault: Fault) {
                match fault { $(Fault::$variant => self.$counter += 1,)* }
            }
        }
    };
}

faults! {
    /// RFC 9114 §7: a frame where its type is not permitted.
    FrameUnexpected, frame_unexpected, Connection, H3_FRAME_UNEXPECTED, "frame not permitted here";
    /// RFC 9114 §7.1: the stream ended inside a frame.
    FrameTruncated, frame_truncated, Connection, H3_FRAME_ERROR, "stream ended inside a frame";
    /// RFC 9114 §7.1: the payload is shorter or longer than its fields.
    FrameLayout, frame_layout, Connection, H3_FRAME_ERROR, "frame payload of the wrong size";
    /// RFC 9114 §6.2.1: the control stream begins with something else.
    SettingsMissing, settings_missing, Connection, H3_MISSING_SETTINGS, "control stream does not begin with SETTINGS";
    /// RFC 9114 §7.2.4.1: an identifier that HTTP/2 used.
    SettingsReserved, settings_reserved, Connection, H3_SETTINGS_ERROR, "setting reserved by HTTP/2";
    /// RFC 9114 §7.2.4: an identifier twice.
    SettingsDuplicate, settings_duplicate, Connection, H3_SETTINGS_ERROR, "setting sent twice";
    /// RFC 9220 §3, RFC 9297 §2.1.1: a value above 1.
    SettingsValue, settings_value, Connection, H3_SETTINGS_ERROR, "setting is neither 0 nor 1";
    /// A SETTINGS frame above 4 KiB.
    SettingsTooLong, settings_too_long, Connection, H3_EXCESSIVE_LOAD, "SETTINGS frame too long";
    /// RFC 9114 §6.2.1, RFC 9204 §4.2: a control or QPACK stream ended.
    CriticalStreamClosed, critical_stream_closed, Connection, H3_CLOSED_CRITICAL_STREAM, "critical stream closed";
    /// RFC 9114 §6.2.1, RFC 9204 §4.2: a second one of a kind.
    CriticalStreamRepeated, critical_stream_repeated, Connection, H3_STREAM_CREATION_ERROR, "second critical stream";
    /// RFC 9114 §6.1: a bidirectional stream opened by the server.
    ServerBidiStream, server_bidi_stream, Connection, H3_STREAM_CREATION_ERROR, "bidirectional stream from a server";
    /// RFC 9114 §6.2.2: a push stream from a client.
    PushStreamFromClient, push_stream_from_client, Connection, H3_STREAM_CREATION_ERROR, "push stream from a client";
    /// RFC 9114 §4.6: push although no MAX_PUSH_ID was sent, or CANCEL_PUSH of what never was.
    PushNotAllowed, push_not_allowed, Connection, H3_ID_ERROR, "push id never allowed or promised";
    /// RFC 9114 §7.2.7: MAX_PUSH_ID went down.
    PushIdDecreased, push_id_decreased, Connection, H3_ID_ERROR, "MAX_PUSH_ID decreased";
    /// RFC 9114 §5.2: GOAWAY with a larger id than before, or from a server not with a request stream id.
    GoAwayId, goaway_id, Connection, H3_ID_ERROR, "GOAWAY identifier increased or of the wrong kind";
    /// RFC 9204 §2.2: not a field section, or one that refers to a dynamic table.
    Decompression, decompression, Connection, QPACK_DECOMPRESSION_FAILED, "field section cannot be decoded";
    /// RFC 9204 §4.3: an instruction that needs a dynamic table.
    EncoderStream, encoder_stream, Connection, QPACK_ENCODER_STREAM_ERROR, "encoder instruction needs a dynamic table";
    /// RFC 9204 §4.4: an instruction about sections we never sent.
    DecoderStream, decoder_stream, Connection, QPACK_DECODER_STREAM_ERROR, "decoder instruction without a cause";
    /// RFC 9114 §10.5: more bytes without a use than `max_unknown_frame_bytes`.
    UselessBytes, useless_bytes, Connection, H3_EXCESSIVE_LOAD, "too many bytes without a use";
    /// RFC 9114 §10.5: more cancelled requests than `max_cancelled_requests`.
    CancelledRequests, cancelled_requests, Connection, H3_EXCESSIVE_LOAD, "too many cancelled requests";
    /// RFC 9297 §2.1: the Quarter Stream ID is truncated or too large.
    QuarterStreamId, quarter_stream_id, Connection, H3_DATAGRAM_ERROR, "malformed Quarter Stream ID";

    /// RFC 9114 §4.1: the request stream ended before a whole request.
    RequestIncomplete, request_incomplete, Stream, H3_REQUEST_INCOMPLETE, "request incomplete";
    /// RFC 9114 §4.1.2: the stream ended before a final response.
    ResponseIncomplete, response_incomplete, Stream, H3_MESSAGE_ERROR, "response incomplete";
    /// RFC 9114 §4.2.2: a response or trailer section above `max_field_section_bytes` (a request is answered with 431).
    SectionTooLarge, section_too_large, Stream, H3_EXCESSIVE_LOAD, "field section too large";
    /// Content above `max_request_body_bytes`.
    BodyTooLarge, body_too_large, Stream, H3_EXCESSIVE_LOAD, "request content too large";
    /// RFC 9114 §4.1.2: content and Content-Length differ.
    ContentLengthMismatch, content_length_mismatch, Stream, H3_MESSAGE_ERROR, "content-length does not match";
    /// RFC 9110 §8.6: Content-Length is not one number, or stands on a CONNECT.
    ContentLengthInvalid, content_length_invalid, Stream, H3_MESSAGE_ERROR, "content-length invalid";
    /// RFC 9114 §4.1.2: content where there is none by definition (HEAD, 204, 304).
    ContentForbidden, content_forbidden, Stream, H3_MESSAGE_ERROR, "content where none is defined";
    /// RFC 9297 §2: a datagram for a request without datagram semantics.
    DatagramForbidden, datagram_forbidden, Stream, H3_DATAGRAM_ERROR, "request has no datagram semantics";
    /// RFC 9114 §4.2: a field name that is not a lower-case token.
    FieldName, field_name, Stream, H3_MESSAGE_ERROR, "field name not a lower-case token";
    /// RFC 9114 §10.3: a field value with bytes it may not hold.
    FieldValue, field_value, Stream, H3_MESSAGE_ERROR, "field value with forbidden bytes";
    /// RFC 9114 §4.2: Connection and what belongs to it.
    ConnectionField, connection_field, Stream, H3_MESSAGE_ERROR, "connection-specific field";
    /// RFC 9114 §4.2: TE other than trailers.
    TeField, te_field, Stream, H3_MESSAGE_ERROR, "te other than trailers";
    /// RFC 9114 §4.3: a pseudo-header after a regular field.
    PseudoOrder, pseudo_order, Stream, H3_MESSAGE_ERROR, "pseudo-header after a regular field";
    /// RFC 9114 §4.3: a pseudo-header twice.
    PseudoDuplicate, pseudo_duplicate, Stream, H3_MESSAGE_ERROR, "pseudo-header twice";
    /// RFC 9114 §4.3: a pseudo-header that is unknown, or of the other kind of message, or in trailers.
    PseudoUnknown, pseudo_unknown, Stream, H3_MESSAGE_ERROR, "pseudo-header not defined here";
    /// RFC 9114 §4.3.1, §4.3.2: a mandatory pseudo-header is absent.
    PseudoMissing, pseudo_missing, Stream, H3_MESSAGE_ERROR, "mandatory pseudo-header missing";
    /// RFC 9114 §4.4: `:scheme` or `:path` on a CONNECT without `:protocol`.
    ConnectPseudo, connect_pseudo, Stream, H3_MESSAGE_ERROR, ":scheme or :path on CONNECT";
    /// RFC 9220 §3: `:protocol` that we did not enable, or not with CONNECT, or not an upgrade token.
    Protocol, protocol, Stream, H3_MESSAGE_ERROR, ":protocol not allowed";
    /// RFC 9110 §9.1: `:method` is not a token.
    Method, method, Stream, H3_MESSAGE_ERROR, ":method invalid";
    /// RFC 3986 §3.1: `:scheme` is not a scheme.
    Scheme, scheme, Stream, H3_MESSAGE_ERROR, ":scheme invalid";
    /// RFC 9114 §4.3.1: `:path` is empty or no path.
    Path, path, Stream, H3_MESSAGE_ERROR, ":path invalid";
    /// RFC 9114 §4.3.1: the authority is empty, has userinfo, or cannot be one.
    Authority, authority, Stream, H3_MESSAGE_ERROR, "authority invalid";
    /// RFC 9114 §4.3.1: `:authority` and Host differ, or there are two Hosts.
    HostMismatch, host_mismatch, Stream, H3_MESSAGE_ERROR, "host does not match";
    /// RFC 9114 §4.3.2, §4.5: `:status` is not three digits from 100, or is 101.
    Status, status, Stream, H3_MESSAGE_ERROR, ":status invalid";
}

/// Everything a connection counts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Broken rules, by rule.
    pub faults: FaultCounters,
    /// Server: requests given to the application.
    pub requests: u64,
    /// Server: requests answered with 431 because of their field section.
    pub oversized_requests: u64,
    /// Server: requests answered with 413 because of their Content-Length.
    pub oversized_bodies: u64,
    /// Server: requests rejected because `max_open_requests` were open.
    pub rejected_over_limit: u64,
    /// Server: requests rejected because of our GOAWAY.
    pub rejected_after_goaway: u64,
    /// Server: requests that count towards `max_cancelled_requests`.
    pub cancelled: u64,
    /// Bytes that came on streams already closed here; dropped.
    pub late_bytes: u64,
    /// Bytes of unknown frames and streams, as weighed for `max_unknown_frame_bytes`.
    pub useless_bytes: u64,
    /// Unidirectional streams of unknown types, stopped.
    pub unknown_uni_streams: u64,
    /// Datagrams held because their request was not there or not decided.
    pub early_held: u64,
    /// Such datagrams that waited too long.
    pub early_expired: u64,
    /// Datagrams dropped because there was no room to hold them.
    pub dropped_early_full: u64,
    /// Datagrams dropped because settings do not allow them.
    pub dropped_not_negotiated: u64,
    /// Datagrams dropped because the request was over, held ones included.
    pub dropped_closed: u64,
    /// Datagrams dropped because no request with their id can come soon.
    pub dropped_out_of_reach: u64,
}
