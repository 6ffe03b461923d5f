//! Request and response heads that know no HTTP version: HTTP/3 fills and writes them today, HTTP/2 and HTTP/1.1 can
//! as well.
//!
//! Values are bytes as they came; nothing here validates or decodes them. Whoever builds a head from the network has
//! already checked names and pseudo-headers by the rules of its HTTP version.

use std::fmt;

use bytes::Bytes;

/// One field line.
#[derive(Clone, PartialEq, Eq)]
pub struct Field {
    /// Lower-case field name; never a pseudo-header, never empty.
    pub name: Bytes,
    /// The value without surrounding whitespace.
    pub value: Bytes,
}

impl Field {
    /// Whether the value is a credential, which must not reach a log.
    fn is_secret(&self) -> bool {
        matches!(&*self.name, b"authorization" | b"proxy-authorization" | b"cookie" | b"set-cookie" | b"signature")
    }
}

/// Credentials print as their length, so that a head can be logged whole.
impl fmt::Debug for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.name.escape_ascii();
        if self.is_secret() {
            write!(f, "{name}: <{} bytes>", self.value.len())
        } else {
            write!(f, "{name}: {}", self.value.escape_ascii())
        }
    }
}

/// A field that may appear once came more often.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the field appears more than once")]
pub struct RepeatedField;

/// Field lines in the order they came; a name may repeat.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fields(Vec<Field>);

impl Fields {
    /// No fields.
    pub const fn new() -> Self {
        Self(Vec::new())
    }

    /// Appends one line. `name` is lower case: look-ups compare bytes.
    pub fn push(&mut self, name: impl Into<Bytes>, value: impl Into<Bytes>) {
        self.0.push(Field { name: name.into(), value: value.into() });
    }

    /// Every value under `name` (lower case), in order.
    pub fn get_all<'a, 'n>(&'a self, name: &'n str) -> impl Iterator<Item = &'a Bytes> + use<'a, 'n> {
        self.0.iter().filter(move |field| field.name == name.as_bytes()).map(|field| &field.value)
    }

    /// The only value under `name` (lower case), or `None` if there is none.
    ///
    /// # Errors
    /// [`RepeatedField`] if there are two lines or more, equal or not.
    pub fn get_single(&self, name: &str) -> Result<Option<&Bytes>, RepeatedField> {
        let mut values = self.get_all(name);
        let first = values.next();
        if values.next().is_some() { Err(RepeatedField) } else { Ok(first) }
    }

    /// Whether any line has this name (lower case).
    pub fn contains(&self, name: &str) -> bool {
        self.get_all(name).next().is_some()
    }

    /// Every line in order.
    pub fn iter(&self) -> std::slice::Iter<'_, Field> {
        self.0.iter()
    }

    /// How many lines.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are no lines.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The size that field section limits count (RFC 9114 §4.2.2): name, value and 32 bytes for each line.
    pub fn encoded_size(&self) -> u64 {
        self.0.iter().map(|field| line_size(field.name.len(), field.value.len())).sum()
    }
}

impl<'a> IntoIterator for &'a Fields {
    type Item = &'a Field;
    type IntoIter = std::slice::Iter<'a, Field>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl IntoIterator for Fields {
    type Item = Field;
    type IntoIter = std::vec::IntoIter<Field>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

impl FromIterator<Field> for Fields {
    fn from_iter<I: IntoIterator<Item = Field>>(fields: I) -> Self {
        Self(fields.into_iter().collect())
    }
}

impl Extend<Field> for Fields {
    fn extend<I: IntoIterator<Item = Field>>(&mut self, fields: I) {
        self.0.extend(fields);
    }
}

/// The head of a request. Which of the optional parts may be absent depends on the method (RFC 9114 §4.3.1, §4.4,
/// RFC 9220 §3); the HTTP layer has checked that.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RequestHead {
    /// `:method`.
    pub method: Bytes,
    /// `:scheme`; absent for classic CONNECT.
    pub scheme: Option<Bytes>,
    /// `:authority`, or the Host field where a version has no `:authority`.
    pub authority: Option<Bytes>,
    /// `:path` with its query, raw: not percent-decoded; absent for classic CONNECT.
    pub path: Option<Bytes>,
    /// `:protocol` of an extended CONNECT (RFC 9220), such as `connect-udp`.
    pub protocol: Option<Bytes>,
    /// The other fields.
    pub fields: Fields,
}

impl RequestHead {
    /// The size that field section limits count (RFC 9114 §4.2.2), pseudo-headers included.
    pub fn encoded_size(&self) -> u64 {
        let optional =
            |name: &str, value: &Option<Bytes>| value.as_ref().map_or(0, |value| line_size(name.len(), value.len()));
        line_size(":method".len(), self.method.len())
            + optional(":scheme", &self.scheme)
            + optional(":authority", &self.authority)
            + optional(":path", &self.path)
            + optional(":protocol", &self.protocol)
            + self.fields.encoded_size()
    }
}

/// The head of a response, interim (1xx) or final.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResponseHead {
    /// `:status`, 100 to 599.
    pub status: u16,
    /// The other fields.
    pub fields: Fields,
}

impl ResponseHead {
    /// A head without fields.
    pub const fn new(status: u16) -> Self {
        Self { status, fields: Fields::new() }
    }

    /// Whether another response follows on the same exchange.
    pub const fn is_interim(&self) -> bool {
        self.status >= 100 && self.status < 200
    }

    /// Whether the request succeeded (2xx).
    pub const fn is_success(&self) -> bool {
        self.status >= 200 && self.status < 300
    }

    /// The size that field section limits count (RFC 9114 §4.2.2), `:status` included.
    pub fn encoded_size(&self) -> u64 {
        line_size(":status".len(), "200".len()) + self.fields.encoded_size()
    }
}

const fn line_size(name: usize, value: usize) -> u64 {
    name as u64 + value as u64 + 32
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Fields {
        let mut fields = Fields::new();
        fields.push("capsule-protocol", "?1");
        fields.push("authorization", "Bearer hunter2");
        fields.push("x", "1");
        fields.push("x", "2");
        fields
    }

    #[test]
    fn a_repeated_field_keeps_its_order_and_is_not_single() {
        let fields = sample();
        assert_eq!(fields.get_all("x").map(|value| &value[..]).collect::<Vec<_>>(), [b"1", b"2"]);
        assert_eq!(fields.get_single("x"), Err(RepeatedField));
        assert_eq!(fields.get_single("capsule-protocol"), Ok(Some(&Bytes::from_static(b"?1"))));
        assert_eq!(fields.get_single("absent"), Ok(None));
        assert!(fields.contains("x") && !fields.contains("y"));
    }

    #[test]
    fn each_line_weighs_its_bytes_and_32_more() {
        let mut head = RequestHead { method: "GET".into(), path: Some("/".into()), ..RequestHead::default() };
        assert_eq!(head.encoded_size(), (7 + 3 + 32) + (5 + 1 + 32));
        head.fields.push("ab", "cde");
        assert_eq!(head.fields.encoded_size(), 37);
        assert_eq!(head.encoded_size(), 42 + 38 + 37);
        assert_eq!(ResponseHead::new(200).encoded_size(), 42);
    }

    #[test]
    fn credentials_do_not_print() {
        let text = format!("{:?}", sample());
        assert!(!text.contains("hunter2"), "{text}");
        assert!(text.contains("authorization: <14 bytes>"), "{text}");
    }
}
