//! What makes a message malformed: RFC 9114 §4.1.2 to §4.4, RFC 9220 §3. The same rules check what we send.

use bytes::Bytes;
use moretta_wire::head::{Field, Fields, RequestHead, ResponseHead};

use crate::fault::Fault;
use crate::qpack::Line;

/// Which section of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Section {
    Request,
    Response,
    Trailers,
}

/// A request head and its Content-Length. `extended_connect`: we announced `SETTINGS_ENABLE_CONNECT_PROTOCOL`.
pub(crate) fn request(lines: Vec<Line>, extended_connect: bool) -> Result<(RequestHead, Option<u64>), Fault> {
    let mut pseudo = [None, None, None, None, None];
    let fields = split(lines, Section::Request, |name, value| {
        let slot = match name {
            b":method" => &mut pseudo[0],
            b":scheme" => &mut pseudo[1],
            b":authority" => &mut pseudo[2],
            b":path" => &mut pseudo[3],
            b":protocol" => &mut pseudo[4],
            _ => return Err(Fault::PseudoUnknown),
        };
        set_once(slot, value)
    })?;
    let [method, scheme, authority, path, protocol] = pseudo;
    let mut head =
        RequestHead { method: method.ok_or(Fault::PseudoMissing)?, scheme, authority, path, protocol, fields };
    if head.protocol.is_some() && !extended_connect {
        return Err(Fault::Protocol);
    }
    let content_length = check_request_parts(&head)?;
    if head.authority.is_none() {
        head.authority = head.fields.get_all("host").next().cloned();
    }
    Ok((head, content_length))
}

/// A response head and its Content-Length.
pub(crate) fn response(lines: Vec<Line>) -> Result<(ResponseHead, Option<u64>), Fault> {
    let mut status = None;
    let fields = split(lines, Section::Response, |name, value| match name {
        b":status" => set_once(&mut status, value),
        _ => Err(Fault::PseudoUnknown),
    })?;
    let status = status.ok_or(Fault::PseudoMissing)?;
    let status = match *status {
        [a, b, c] if status.iter().all(u8::is_ascii_digit) => {
            u16::from(a - b'0') * 100 + u16::from(b - b'0') * 10 + u16::from(c - b'0')
        }
        _ => return Err(Fault::Status),
    };
    // HTTP/3 has no 101 (RFC 9114 §4.5). 600 to 999 are read as server errors by whoever cares (RFC 9110 §15).
    if status < 100 || status == 101 {
        return Err(Fault::Status);
    }
    let content_length = content_length(&fields)?;
    Ok((ResponseHead { status, fields }, content_length))
}

/// A trailer section.
pub(crate) fn trailers(lines: Vec<Line>) -> Result<Fields, Fault> {
    split(lines, Section::Trailers, |_, _| Err(Fault::PseudoUnknown))
}

/// Whether a head of ours is well-formed.
pub(crate) fn check_request(head: &RequestHead) -> Result<(), Fault> {
    for value in [&head.scheme, &head.authority, &head.path, &head.protocol].into_iter().flatten() {
        check_value(value)?;
    }
    check_fields(&head.fields, Section::Request)?;
    check_request_parts(head).map(drop)
}

/// Whether a head of ours is well-formed, apart from its status.
pub(crate) fn check_response(head: &ResponseHead) -> Result<(), Fault> {
    if !(100..=599).contains(&head.status) || head.status == 101 {
        return Err(Fault::Status);
    }
    check_fields(&head.fields, Section::Response)?;
    content_length(&head.fields).map(drop)
}

/// Whether a trailer section of ours is well-formed.
pub(crate) fn check_trailers(fields: &Fields) -> Result<(), Fault> {
    check_fields(fields, Section::Trailers)
}

fn set_once(slot: &mut Option<Bytes>, value: Bytes) -> Result<(), Fault> {
    if slot.replace(value).is_some() { Err(Fault::PseudoDuplicate) } else { Ok(()) }
}

/// Separates pseudo-headers, which come first, from fields, and checks every line.
fn split(
    lines: Vec<Line>,
    section: Section,
    mut pseudo: impl FnMut(&[u8], Bytes) -> Result<(), Fault>,
) -> Result<Fields, Fault> {
    let mut fields = Vec::with_capacity(lines.len());
    for Line { name, value } in lines {
        if name.first() == Some(&b':') {
            if !fields.is_empty() {
                return Err(Fault::PseudoOrder);
            }
            check_value(&value)?;
            pseudo(&name, value)?;
        } else {
            check_field(&name, &value, section)?;
            fields.push(Field { name, value });
        }
    }
    Ok(fields.into_iter().collect())
}

fn check_fields(fields: &Fields, section: Section) -> Result<(), Fault> {
    fields.iter().try_for_each(|field| check_field(&field.name, &field.value, section))
}

fn check_field(name: &[u8], value: &[u8], section: Section) -> Result<(), Fault> {
    if !is_token(name) || name.iter().any(u8::is_ascii_uppercase) {
        return Err(Fault::FieldName);
    }
    check_value(value)?;
    match name {
        b"connection" | b"keep-alive" | b"proxy-connection" | b"transfer-encoding" | b"upgrade" => {
            Err(Fault::ConnectionField)
        }
        // §4.2: the one connection-specific field that a request, and only a request, may carry.
        b"te" if section != Section::Request || !value.eq_ignore_ascii_case(b"trailers") => Err(Fault::TeField),
        _ => Ok(()),
    }
}

/// RFC 9110 §5.5: visible characters and bytes above ASCII, with spaces and tabs only between them.
fn check_value(value: &[u8]) -> Result<(), Fault> {
    let is_blank = |byte: Option<&u8>| matches!(byte, Some(b' ' | b'\t'));
    let is_allowed = |byte: &u8| matches!(byte, b'\t' | 0x20..=0x7e | 0x80..=0xff);
    if is_blank(value.first()) || is_blank(value.last()) || !value.iter().all(is_allowed) {
        return Err(Fault::FieldValue);
    }
    Ok(())
}

/// The rules between the parts of a request head (§4.3.1, §4.4; RFC 9220 §3). Gives the Content-Length.
fn check_request_parts(head: &RequestHead) -> Result<Option<u64>, Fault> {
    if !is_token(&head.method) {
        return Err(Fault::Method);
    }
    let content_length = content_length(&head.fields)?;
    let host = host(&head.fields)?;
    if head.authority.as_ref().is_some_and(|authority| host.is_some_and(|host| host != authority)) {
        return Err(Fault::HostMismatch);
    }
    let is_connect = &*head.method == b"CONNECT";
    // A CONNECT has no content (RFC 9110 §9.3.6): a length could only mislead whoever reads it.
    if is_connect && content_length.is_some() {
        return Err(Fault::ContentLengthInvalid);
    }
    if let Some(protocol) = &head.protocol {
        // An upgrade token, perhaps with a version (RFC 9110 §7.8); which of them we know is not decided here.
        if !is_connect || !protocol.split(|byte| *byte == b'/').all(is_token) {
            return Err(Fault::Protocol);
        }
        if head.authority.is_none() {
            return Err(Fault::PseudoMissing);
        }
    } else if is_connect {
        if head.scheme.is_some() || head.path.is_some() {
            return Err(Fault::ConnectPseudo);
        }
        let authority = head.authority.as_ref().ok_or(Fault::PseudoMissing)?;
        check_authority(authority)?;
        return Ok(None);
    }
    let (Some(scheme), Some(path)) = (&head.scheme, &head.path) else { return Err(Fault::PseudoMissing) };
    if !is_scheme(scheme) {
        return Err(Fault::Scheme);
    }
    if path.is_empty() || !path.iter().all(|byte| (0x21..0x7f).contains(byte) && *byte != b'#') {
        return Err(Fault::Path);
    }
    if scheme.eq_ignore_ascii_case(b"https") || scheme.eq_ignore_ascii_case(b"http") {
        let is_asterisk = &**path == b"*" && &*head.method == b"OPTIONS";
        if path.first() != Some(&b'/') && !is_asterisk {
            return Err(Fault::Path);
        }
        let authority = head.authority.as_ref().or(host).ok_or(Fault::PseudoMissing)?;
        check_authority(authority)?;
    }
    Ok(content_length)
}

/// RFC 3986 §3.2 without userinfo (§4.3.1 forbids it): only characters that a host and a port can consist of.
fn check_authority(authority: &[u8]) -> Result<(), Fault> {
    let is_allowed = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._~%!$&'()*+,;=:[]".contains(byte);
    if authority.is_empty() || !authority.iter().all(is_allowed) { Err(Fault::Authority) } else { Ok(()) }
}

fn host(fields: &Fields) -> Result<Option<&Bytes>, Fault> {
    fields.get_single("host").map_err(|_| Fault::HostMismatch)
}

/// RFC 9110 §8.6: one line, one number.
fn content_length(fields: &Fields) -> Result<Option<u64>, Fault> {
    let Some(value) = fields.get_single("content-length").map_err(|_| Fault::ContentLengthInvalid)? else {
        return Ok(None);
    };
    if value.is_empty() || !value.iter().all(u8::is_ascii_digit) {
        return Err(Fault::ContentLengthInvalid);
    }
    let digit = |sum: u64, byte: &u8| sum.checked_mul(10)?.checked_add(u64::from(byte - b'0'));
    value.iter().try_fold(0, digit).map(Some).ok_or(Fault::ContentLengthInvalid)
}

/// RFC 9110 §5.6.2.
fn is_token(bytes: &[u8]) -> bool {
    !bytes.is_empty() && bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte))
}

/// RFC 3986 §3.1.
fn is_scheme(bytes: &[u8]) -> bool {
    bytes.first().is_some_and(u8::is_ascii_alphabetic)
        && bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(byte))
}
