//! Error codes of HTTP/3 (RFC 9114 §8.1), QPACK (RFC 9204 §6) and HTTP Datagrams (RFC 9297 §5.2).

/// `H3_DATAGRAM_ERROR`: an HTTP Datagram that cannot be parsed, or one for a request without datagram semantics.
pub const H3_DATAGRAM_ERROR: u64 = 0x33;
/// `H3_NO_ERROR`: nothing went wrong; also how unknown codes are read.
pub const H3_NO_ERROR: u64 = 0x100;
/// `H3_GENERAL_PROTOCOL_ERROR`: a violation without a code of its own.
pub const H3_GENERAL_PROTOCOL_ERROR: u64 = 0x101;
/// `H3_INTERNAL_ERROR`: this endpoint failed.
pub const H3_INTERNAL_ERROR: u64 = 0x102;
/// `H3_STREAM_CREATION_ERROR`: a stream that may not be opened, or of a type nobody wants.
pub const H3_STREAM_CREATION_ERROR: u64 = 0x103;
/// `H3_CLOSED_CRITICAL_STREAM`: a control or QPACK stream ended.
pub const H3_CLOSED_CRITICAL_STREAM: u64 = 0x104;
/// `H3_FRAME_UNEXPECTED`: a frame that is not permitted where it came.
pub const H3_FRAME_UNEXPECTED: u64 = 0x105;
/// `H3_FRAME_ERROR`: a frame whose layout or size is wrong.
pub const H3_FRAME_ERROR: u64 = 0x106;
/// `H3_EXCESSIVE_LOAD`: the peer costs more than it may.
pub const H3_EXCESSIVE_LOAD: u64 = 0x107;
/// `H3_ID_ERROR`: a stream, push or GOAWAY identifier used wrongly.
pub const H3_ID_ERROR: u64 = 0x108;
/// `H3_SETTINGS_ERROR`: an error in the SETTINGS payload.
pub const H3_SETTINGS_ERROR: u64 = 0x109;
/// `H3_MISSING_SETTINGS`: the control stream did not begin with SETTINGS.
pub const H3_MISSING_SETTINGS: u64 = 0x10a;
/// `H3_REQUEST_REJECTED`: not processed at all, so safe to retry.
pub const H3_REQUEST_REJECTED: u64 = 0x10b;
/// `H3_REQUEST_CANCELLED`: the request or its response is no longer wanted.
pub const H3_REQUEST_CANCELLED: u64 = 0x10c;
/// `H3_REQUEST_INCOMPLETE`: the client's stream ended before its request was whole.
pub const H3_REQUEST_INCOMPLETE: u64 = 0x10d;
/// `H3_MESSAGE_ERROR`: a malformed message; also what a capsule fault resets the stream with.
pub const H3_MESSAGE_ERROR: u64 = 0x10e;
/// `H3_CONNECT_ERROR`: the TCP connection of a CONNECT was reset or failed.
pub const H3_CONNECT_ERROR: u64 = 0x10f;
/// `H3_VERSION_FALLBACK`: only HTTP/1.1 can serve this request.
pub const H3_VERSION_FALLBACK: u64 = 0x110;
/// `QPACK_DECOMPRESSION_FAILED`: a field section that cannot be decoded.
pub const QPACK_DECOMPRESSION_FAILED: u64 = 0x200;
/// `QPACK_ENCODER_STREAM_ERROR`: an instruction on the peer's encoder stream that cannot be obeyed.
pub const QPACK_ENCODER_STREAM_ERROR: u64 = 0x201;
/// `QPACK_DECODER_STREAM_ERROR`: an instruction on the peer's decoder stream that makes no sense.
pub const QPACK_DECODER_STREAM_ERROR: u64 = 0x202;
