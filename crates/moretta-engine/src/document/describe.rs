//! Every document and its fields, as the deserialiser itself knows them.

use super::{Command, Counters, EngineConfig, Event, Listener, Resolver, Snapshot};
use moretta_proto::limits::Limits;
use moretta_proto::policy::{PolicyDocument, RuleDocument};
use moretta_proto::profile::Overrides;
use serde::de::{self, DeserializeOwned, Deserializer, Visitor};
use serde_json::{Map, Value, json};

/// All documents with the names of their fields, as JSON text.
///
/// `{"version": 1, "documents": {"config": […], "snapshot": […], "snapshot.listeners[]": […], …}, "commands": {name:
/// […]}, "events": {name: […]}}`. The lists come from the deserialisers, so they cannot drift from what is accepted.
pub fn describe() -> Vec<u8> {
    let documents = [
        ("config", fields_of::<EngineConfig>()),
        ("snapshot", fields_of::<Snapshot>()),
        ("snapshot.listeners[]", fields_of::<Listener>()),
        ("snapshot.overrides", fields_of::<Overrides>()),
        ("snapshot.policy", fields_of::<PolicyDocument>()),
        ("snapshot.policy.rules[]", fields_of::<RuleDocument>()),
        ("snapshot.resolver", fields_of::<Resolver>()),
        ("snapshot.limits", Limits::TABLE.iter().map(|row| row.name).collect()),
        ("event.counters", fields_of::<Counters>()),
    ];
    let map = |rows: Vec<(&'static str, Vec<&'static str>)>| -> Map<String, Value> {
        rows.into_iter().map(|(name, fields)| (name.to_owned(), json!(fields))).collect()
    };
    json!({
        "version": super::VERSION,
        "documents": map(documents.into()),
        "commands": map(Command::describe()),
        "events": map(Event::describe()),
    })
    .to_string()
    .into_bytes()
}

/// The field names that a type's deserialiser asks for.
pub(super) fn fields_of<T: DeserializeOwned>() -> Vec<&'static str> {
    let mut fields: &'static [&'static str] = &[];
    // The probe answers with an error on purpose, after it has seen the names.
    let seen = T::deserialize(Probe(&mut fields));
    debug_assert!(seen.is_err(), "the probe never has a value");
    fields.to_vec()
}

struct Probe<'a>(&'a mut &'static [&'static str]);

impl<'de> Deserializer<'de> for Probe<'_> {
    type Error = de::value::Error;

    fn deserialize_any<V: Visitor<'de>>(self, _visitor: V) -> Result<V::Value, Self::Error> {
        Err(de::Error::custom("only structs have fields"))
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        fields: &'static [&'static str],
        _visitor: V,
    ) -> Result<V::Value, Self::Error> {
        *self.0 = fields;
        Err(de::Error::custom("seen"))
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit unit_struct
        newtype_struct seq tuple tuple_struct map enum identifier ignored_any
    }
}
