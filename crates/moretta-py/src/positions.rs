//! Where each key of a TOML file stands, so that an error about a setting can name its line.

use serde_json::{Value, json};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// Every key of `text` with its path and its 1-based line and column: `[[["listen", "main"], 3, 1], …]`.
///
/// Elements of arrays are in the list with their index as path element. The values themselves are read by Python's
/// own parser; a text that this one refuses has no positions, which costs an error message its line and nothing else.
pub(crate) fn of(text: &str) -> Value {
    let Ok(table) = DeTable::parse(text) else { return json!([]) };
    let mut walk = Walk { lines: LineIndex::new(text), path: Vec::new(), found: Vec::new() };
    walk.table(table.get_ref());
    Value::Array(walk.found)
}

struct Walk {
    lines: LineIndex,
    path: Vec<Value>,
    found: Vec<Value>,
}

impl Walk {
    fn table(&mut self, table: &DeTable<'_>) {
        for (key, value) in table {
            self.path.push(Value::from(key.get_ref().as_ref()));
            self.note(key.span().start);
            self.value(value);
            self.path.pop();
        }
    }

    fn value(&mut self, value: &Spanned<DeValue<'_>>) {
        match value.get_ref() {
            DeValue::Table(table) => self.table(table),
            DeValue::Array(elements) => {
                for (index, element) in elements.iter().enumerate() {
                    self.path.push(Value::from(index));
                    self.note(element.span().start);
                    self.value(element);
                    self.path.pop();
                }
            }
            DeValue::String(_)
            | DeValue::Integer(_)
            | DeValue::Float(_)
            | DeValue::Boolean(_)
            | DeValue::Datetime(_) => {}
        }
    }

    fn note(&mut self, offset: usize) {
        let (line, column) = self.lines.position(offset);
        self.found.push(json!([self.path, line, column]));
    }
}

/// Byte offsets at which lines begin.
struct LineIndex(Vec<usize>);

impl LineIndex {
    fn new(text: &str) -> Self {
        Self(std::iter::once(0).chain(text.match_indices('\n').map(|(at, _)| at + 1)).collect())
    }

    fn position(&self, offset: usize) -> (usize, usize) {
        let line = self.0.partition_point(|start| *start <= offset);
        let start = self.0.get(line.saturating_sub(1)).copied().unwrap_or(0);
        (line, offset - start + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_and_element_has_its_line() {
        let text = "version = 1\n[listen.main]\naddress = [\n  \"127.0.0.1:1\",\n]\n\n[[policy.rule]]\nid = \"a\"\n";
        let found = of(text);
        let line = |path: Value| {
            found.as_array().unwrap().iter().find(|row| row[0] == path).map(|row| row[1].as_u64().unwrap())
        };
        assert_eq!(line(json!(["version"])), Some(1));
        assert_eq!(line(json!(["listen", "main"])), Some(2));
        assert_eq!(line(json!(["listen", "main", "address"])), Some(3));
        assert_eq!(line(json!(["listen", "main", "address", 0])), Some(4));
        assert_eq!(line(json!(["policy", "rule", 0, "id"])), Some(8));
    }

    #[test]
    fn a_broken_file_has_no_positions() {
        assert_eq!(of("a = ["), json!([]));
    }
}
