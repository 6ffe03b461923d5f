//! Every bound of the gateway in one table: name, unit, default and range, from which the type, its document form and
//! the schema of the Python package come.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::suggest::nearest;

/// What a number in the document counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Unit {
    /// Things.
    Count,
    /// Bytes.
    Bytes,
    /// Whole seconds.
    Seconds,
    /// Whole milliseconds.
    Milliseconds,
}

/// One bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct LimitRow {
    /// The key in the document; ends in its unit unless it counts things.
    pub name: &'static str,
    /// What the number counts.
    pub unit: Unit,
    /// What holds where the document says nothing.
    pub default: u64,
    /// The smallest value accepted.
    pub min: u64,
    /// The largest value accepted.
    pub max: u64,
    /// Meaning, and the cost of raising it.
    pub doc: &'static str,
}

/// A document names a limit that does not exist, or a value out of range.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, thiserror::Error)]
#[error("{field}: {reason}")]
pub struct LimitError {
    /// The key as it was written.
    pub field: String,
    /// What was expected and what came, or the nearest valid key.
    pub reason: String,
}

trait Value: Copy {
    fn from_number(number: u64, unit: Unit) -> Self;
    fn to_number(self, unit: Unit) -> u64;
}

impl Value for u64 {
    fn from_number(number: u64, _: Unit) -> Self {
        number
    }

    fn to_number(self, _: Unit) -> u64 {
        self
    }
}

impl Value for usize {
    fn from_number(number: u64, _: Unit) -> Self {
        // Every maximum in the table is below 2^32.
        usize::try_from(number).unwrap_or(usize::MAX)
    }

    fn to_number(self, _: Unit) -> u64 {
        self as u64
    }
}

impl Value for Duration {
    fn from_number(number: u64, unit: Unit) -> Self {
        if unit == Unit::Milliseconds { Duration::from_millis(number) } else { Duration::from_secs(number) }
    }

    fn to_number(self, unit: Unit) -> u64 {
        if unit == Unit::Milliseconds { self.as_millis() as u64 } else { self.as_secs() }
    }
}

macro_rules! limits {
    ($( $field:ident: $type:ty = $name:literal, $unit:ident, $default:literal in $min:literal ..= $max:literal, $doc:literal; )+) => {
        /// A value for every bound. [`Limits::TABLE`] has names, units and ranges.
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub struct Limits {
            $( #[doc = $doc] pub $field: $type, )+
        }

        impl Limits {
            /// One row for every field, in the same order.
            pub const TABLE: &'static [LimitRow] = &[$(
                LimitRow { name: $name, unit: Unit::$unit, default: $default, min: $min, max: $max, doc: $doc }
            ),+];

            fn set(&mut self, name: &str, number: u64) {
                match name {
                    $( $name => self.$field = Value::from_number(number, Unit::$unit), )+
                    _ => {}
                }
            }

            /// Every value by the name it has in the document.
            pub fn numbers(&self) -> BTreeMap<&'static str, u64> {
                BTreeMap::from([$( ($name, self.$field.to_number(Unit::$unit)) ),+])
            }
        }

        impl Default for Limits {
            fn default() -> Self {
                Self { $( $field: Value::from_number($default, Unit::$unit) ),+ }
            }
        }
    };
}

limits! {
    max_connections: usize = "max_connections", Count, 10_000 in 1..=1_000_000,
        "QUIC connections at once, all workers together; about 64 KiB each.";
    half_open_before_retry: usize = "half_open_before_retry", Count, 256 in 0..=1_000_000,
        "Handshakes in flight per worker above which a Retry makes clients prove their address; 0: always.";
    max_tunnels: u64 = "max_tunnels", Count, 20_000 in 1..=1_000_000,
        "Tunnels at once, all workers together; beyond, 503. Each takes a descriptor, a port and about 16 KiB.";
    max_tunnels_per_connection: usize = "max_tunnels_per_connection", Count, 1024 in 1..=65_536,
        "Tunnels of one connection at once; beyond, 429. At least 100 should be allowed (RFC 9114 6.1).";
    admission_deadline: Duration = "admission_deadline_seconds", Seconds, 10 in 1..=60,
        "From a request to its answer, resolving included; beyond, 504.";
    idle_timeout: Duration = "idle_timeout_seconds", Seconds, 120 in 30..=3600,
        "A tunnel that carries nothing for this long ends. RFC 9298 3.1 advises against less than 120.";
    tunnel_queue_bytes: usize = "tunnel_queue_bytes", Bytes, 262_144 in 16_384..=16_777_216,
        "What may wait for one client's tunnel; when full the oldest datagrams go.";
    tunnel_queue_time: Duration = "tunnel_queue_milliseconds", Milliseconds, 200 in 5..=5_000,
        "How long a datagram may wait in that queue; older ones are dropped.";
    early_datagram_bytes: usize = "early_datagram_bytes", Bytes, 65_536 in 0..=1_048_576,
        "Datagrams held per connection that came before their request.";
    early_datagram_time: Duration = "early_datagram_milliseconds", Milliseconds, 500 in 0..=5_000,
        "How long they are held; about one round trip is needed (RFC 9298 5).";
    max_field_section_bytes: u64 = "max_field_section_bytes", Bytes, 16_384 in 1_024..=65_536,
        "The largest header section accepted; beyond, 431.";
    capsule_assembly_bytes: usize = "capsule_assembly_bytes", Bytes, 262_144 in 1_500..=16_777_216,
        "Unfinished DATAGRAM capsules held per connection; what exceeds it is skipped.";
    unknown_capsule_bytes: u64 = "unknown_capsule_bytes", Bytes, 2_147_483_648 in 65_536..=1_099_511_627_776,
        "What capsules of unknown types may carry on one tunnel before it is reset; they are skipped, never held.";
}

impl Limits {
    /// The limits of a document's numbers; what is absent has its default.
    ///
    /// # Errors
    /// Every key that is unknown (with the nearest valid one) and every value out of range, in key order.
    pub fn from_numbers<'a>(numbers: impl IntoIterator<Item = (&'a str, u64)>) -> Result<Self, Vec<LimitError>> {
        let mut limits = Self::default();
        let mut errors = Vec::new();
        for (name, number) in numbers {
            match Self::TABLE.iter().find(|row| row.name == name) {
                None => errors.push(unknown(name)),
                Some(row) if number < row.min || number > row.max => errors.push(LimitError {
                    field: name.to_owned(),
                    reason: format!("expected {} to {}, found {number}", row.min, row.max),
                }),
                Some(_) => limits.set(name, number),
            }
        }
        if errors.is_empty() { Ok(limits) } else { Err(errors) }
    }
}

fn unknown(name: &str) -> LimitError {
    let reason = match nearest(name, Limits::TABLE.iter().map(|row| row.name)) {
        Some(key) => format!("there is no such limit; did you mean {key}?"),
        None => "there is no such limit".to_owned(),
    };
    LimitError { field: name.to_owned(), reason }
}

impl Serialize for Limits {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.numbers().serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Limits {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let numbers = BTreeMap::<String, u64>::deserialize(deserializer)?;
        Self::from_numbers(numbers.iter().map(|(name, number)| (name.as_str(), *number))).map_err(|errors| {
            let lines: Vec<String> = errors.iter().map(ToString::to_string).collect();
            serde::de::Error::custom(lines.join("; "))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_default_is_within_its_bounds() {
        for row in Limits::TABLE {
            assert!(row.min <= row.default && row.default <= row.max, "{}", row.name);
            assert_eq!(Limits::default().numbers().get(row.name), Some(&row.default));
            let suffix = match row.unit {
                Unit::Count => "",
                Unit::Bytes => "_bytes",
                Unit::Seconds => "_seconds",
                Unit::Milliseconds => "_milliseconds",
            };
            assert!(row.name.ends_with(suffix), "{} names its unit", row.name);
            assert!(row.doc.ends_with('.'), "{}", row.name);
        }
        let mut names: Vec<_> = Limits::TABLE.iter().map(|row| row.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), Limits::TABLE.len(), "every name once");
    }

    /// AU-13, C-10: 120 s by default, 30 to 3600 s.
    #[test]
    fn the_idle_timeout_is_120_seconds_and_at_least_30() {
        assert_eq!(Limits::default().idle_timeout, Duration::from_secs(120));
        let set = |seconds| Limits::from_numbers([("idle_timeout_seconds", seconds)]);
        assert_eq!(set(30).unwrap().idle_timeout, Duration::from_secs(30));
        assert_eq!(set(3600).unwrap().idle_timeout, Duration::from_secs(3600));
        for seconds in [0, 29, 3601, u64::MAX] {
            let errors = set(seconds).unwrap_err();
            assert_eq!(errors.len(), 1);
            assert_eq!(errors[0].reason, format!("expected 30 to 3600, found {seconds}"));
        }
    }

    #[test]
    fn both_ends_of_every_range_are_accepted_and_what_lies_beyond_is_not() {
        for row in Limits::TABLE {
            for number in [row.min, row.max] {
                let limits = Limits::from_numbers([(row.name, number)]).unwrap();
                assert_eq!(limits.numbers().get(row.name), Some(&number), "{}", row.name);
            }
            assert!(Limits::from_numbers([(row.name, row.max + 1)]).is_err(), "{}", row.name);
            if let Some(below) = row.min.checked_sub(1) {
                assert!(Limits::from_numbers([(row.name, below)]).is_err(), "{}", row.name);
            }
        }
    }

    #[test]
    fn all_errors_are_found_at_once_and_an_unknown_key_gets_a_suggestion() {
        let errors = Limits::from_numbers([("max_tunnel", 5), ("idle_timeout_seconds", 1), ("colour", 3)]).unwrap_err();
        assert_eq!(errors.len(), 3);
        assert_eq!(errors[0].reason, "there is no such limit; did you mean max_tunnels?");
        assert_eq!(errors[2].reason, "there is no such limit");
    }

    #[test]
    fn a_document_reads_back_as_it_was_written() {
        let limits = Limits::from_numbers([("max_tunnels", 7), ("tunnel_queue_milliseconds", 55)]).unwrap();
        let document = serde_json::to_string(&limits).unwrap();
        assert_eq!(serde_json::from_str::<Limits>(&document).unwrap(), limits);
        let error = serde_json::from_str::<Limits>(r#"{"max_tunnels": 0}"#).unwrap_err().to_string();
        assert!(error.contains("max_tunnels: expected 1 to 1000000, found 0"), "{error}");
    }
}
