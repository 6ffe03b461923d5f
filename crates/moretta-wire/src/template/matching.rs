//! Request path to variables.
//!
//! First the raw path is cut apart, which decides whether it is for this template at all; only then are the pieces
//! judged and decoded. A value as RFC 6570 §3.2.1 writes it consists of unreserved characters and percent-encoded
//! bytes, so any other character ends it, and a template whose literals begin with another character has one reading.

use super::{Operator, Part, Variable, is_unreserved};

/// What a template makes of a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PathMatch {
    /// The path is for something else: another template, or an ordinary resource.
    NotThisTemplate,
    /// Each variable, percent-decoded exactly once. Host and port are not empty but otherwise unchecked.
    Variables {
        /// `target_host`, for [`Host::parse`](crate::host::Host::parse).
        host: String,
        /// `target_port`, for [`parse_port`](crate::host::parse_port).
        port: String,
        /// Whatever else the template names and the request gives, by name.
        others: Vec<(String, String)>,
    },
    /// The path is for this template and breaks its rules; the answer is 400.
    Malformed(VariableError),
}

/// Why the variables of a request to a template cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum VariableError {
    /// RFC 9298 §3: neither host nor port may be empty.
    #[error("target_host or target_port is empty")]
    EmptyValue,
    /// The query lacks one of them.
    #[error("target_host or target_port is missing")]
    MissingVariable,
    /// The query has a variable that the template does not name.
    #[error("the query has a variable that the template does not name")]
    UnknownVariable,
    /// A variable comes twice.
    #[error("a variable appears more than once")]
    RepeatedVariable,
    /// RFC 9298 §3: whatever is not unreserved is percent-encoded; so are the colons of an IPv6 address.
    #[error("a value has a character that must be percent-encoded")]
    UnescapedCharacter,
    /// `%` without two hex digits.
    #[error("a percent sign is not followed by two hex digits")]
    BadPercentEncoding,
    /// The decoded bytes are no text.
    #[error("a value is not UTF-8")]
    NotUtf8,
    /// A NUL or another control character.
    #[error("a value has a control character")]
    ControlCharacter,
    /// RFC 9298 §3: an IPv6 address stands without square brackets.
    #[error("target_host has square brackets")]
    Brackets,
    /// After decoding once there is still a `%`: encoded twice, or a zone identifier, which RFC 9298 §3 excludes.
    #[error("a value is percent-encoded twice or has a zone identifier")]
    PercentSign,
}

impl VariableError {
    /// A stable name for logs, vectors and counters.
    pub const fn code(self) -> &'static str {
        match self {
            Self::EmptyValue => "empty_value",
            Self::MissingVariable => "missing_variable",
            Self::UnknownVariable => "unknown_variable",
            Self::RepeatedVariable => "repeated_variable",
            Self::UnescapedCharacter => "unescaped_character",
            Self::BadPercentEncoding => "bad_percent_encoding",
            Self::NotUtf8 => "not_utf8",
            Self::ControlCharacter => "control_character",
            Self::Brackets => "brackets",
            Self::PercentSign => "percent_sign",
        }
    }
}

/// How the query of a request is read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Query {
    /// The template has none.
    Absent,
    /// `key=value` pairs, in any order.
    Pairs(Pairs),
    /// Something else, character by character; without the `?`.
    Sequence(Vec<Part>),
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Pairs {
    /// Whole pairs that the template fixes.
    fixed: Vec<String>,
    /// Keys whose value is a variable.
    named: Vec<(String, Variable)>,
}

/// A raw value and what it is for.
type Capture<'t, 'r> = (&'t Variable, &'r [u8]);

impl Query {
    /// How to read requests to a template of these parts; `None` if there is no single reading.
    pub(super) fn of(path: &[Part], query: &[Part]) -> Option<Self> {
        if !has_one_reading(path) || repeats_a_variable(path, query) {
            return None;
        }
        if query.is_empty() {
            return Some(Self::Absent);
        }
        let mut query = query.to_vec();
        if let Some(Part::Literal(first)) = query.first_mut() {
            // The `?` that made it the query.
            *first = first.split_off(1);
        }
        if let Some(pairs) = Pairs::of(&query) {
            return Some(Self::Pairs(pairs));
        }
        query.retain(|part| !matches!(part, Part::Literal(text) if text.is_empty()));
        has_one_reading(&query).then_some(Self::Sequence(query))
    }
}

impl Pairs {
    /// The pairs of a query without its `?`; `None` if it is made of anything else.
    fn of(query: &[Part]) -> Option<Self> {
        let mut pairs = Self::default();
        // The pair being read; `None` right behind a value, where only `&` may follow.
        let mut pending = Some(String::new());
        for part in query {
            match part {
                Part::Literal(text) => {
                    let mut pieces = text.split('&');
                    let first = pieces.next().unwrap_or_default();
                    match &mut pending {
                        Some(pair) => pair.push_str(first),
                        None if first.is_empty() => {}
                        None => return None,
                    }
                    for piece in pieces {
                        if let Some(pair) = pending.replace(piece.to_owned()) {
                            pairs.fix(pair)?;
                        }
                    }
                }
                Part::Expression(Operator::Simple, variables) => {
                    let [variable] = &variables[..] else { return None };
                    let pair = pending.take()?;
                    pairs.name(pair.strip_suffix('=')?, variable)?;
                }
                Part::Expression(operator, variables) => {
                    if let Some(pair) = pending.take()
                        && *operator == Operator::Continuation
                    {
                        pairs.fix(pair)?;
                    }
                    for variable in variables {
                        pairs.name(variable.name(), variable)?;
                    }
                }
            }
        }
        if let Some(pair) = pending {
            pairs.fix(pair)?;
        }
        Some(pairs)
    }

    fn fix(&mut self, pair: String) -> Option<()> {
        let key = pair.split('=').next().unwrap_or_default();
        if key.is_empty() || self.knows(key) {
            return None;
        }
        self.fixed.push(pair);
        Some(())
    }

    fn name(&mut self, key: &str, variable: &Variable) -> Option<()> {
        if key.is_empty() || key.contains('=') || self.knows(key) {
            return None;
        }
        self.named.push((key.to_owned(), variable.clone()));
        Some(())
    }

    fn knows(&self, key: &str) -> bool {
        self.named.iter().any(|(named, _)| named == key)
            || self.fixed.iter().any(|pair| pair.split('=').next() == Some(key))
    }

    /// `Ok(None)`: a fixed pair is missing, so the request is for another template.
    fn read<'t, 'r>(&'t self, query: &'r [u8], out: &mut Vec<Capture<'t, 'r>>) -> Result<Option<()>, VariableError> {
        let pieces = || query.split(|byte| *byte == b'&').filter(|_| !query.is_empty());
        if !self.fixed.iter().all(|pair| pieces().any(|piece| piece == pair.as_bytes())) {
            return Ok(None);
        }
        let mut seen_fixed = 0;
        for piece in pieces() {
            if self.fixed.iter().any(|pair| piece == pair.as_bytes()) {
                seen_fixed += 1;
                continue;
            }
            let mut halves = piece.splitn(2, |byte| *byte == b'=');
            let (key, value) = (halves.next().unwrap_or_default(), halves.next().unwrap_or_default());
            let (_, variable) =
                self.named.iter().find(|(named, _)| named.as_bytes() == key).ok_or(VariableError::UnknownVariable)?;
            if out.iter().any(|(earlier, _)| *earlier == variable) {
                return Err(VariableError::RepeatedVariable);
            }
            out.push((variable, value));
        }
        if seen_fixed > self.fixed.len() { Err(VariableError::RepeatedVariable) } else { Ok(Some(())) }
    }
}

/// Matches a raw `:path`.
pub(super) fn run(path_parts: &[Part], query: &Query, raw: &[u8]) -> PathMatch {
    let mut halves = raw.splitn(2, |byte| *byte == b'?');
    let (path, raw_query) = (halves.next().unwrap_or_default(), halves.next());
    let mut captures = Vec::new();
    let outcome = match sequence(path_parts, path, true, &mut captures) {
        Ok(Some(())) => match query {
            Query::Absent if raw_query.is_some() => Err(VariableError::UnknownVariable),
            Query::Absent => Ok(Some(())),
            Query::Pairs(pairs) => pairs.read(raw_query.unwrap_or_default(), &mut captures),
            Query::Sequence(parts) => match raw_query {
                Some(raw_query) => sequence(parts, raw_query, false, &mut captures),
                None => Ok(None),
            },
        },
        other => other,
    };
    match outcome.and_then(|found| found.map(|()| decode_all(&captures)).transpose()) {
        Ok(Some(variables)) => variables,
        Ok(None) => PathMatch::NotThisTemplate,
        Err(error) => PathMatch::Malformed(error),
    }
}

/// Cuts `raw` along the parts. `Ok(None)`: it does not have their shape.
fn sequence<'t, 'r>(
    parts: &'t [Part],
    raw: &'r [u8],
    slash_ends_a_value: bool,
    out: &mut Vec<Capture<'t, 'r>>,
) -> Result<Option<()>, VariableError> {
    let mut rest = raw;
    let mut fault = Ok(());
    for (index, part) in parts.iter().enumerate() {
        match part {
            Part::Literal(text) => match rest.strip_prefix(text.as_bytes()) {
                Some(after) => rest = after,
                None => return Ok(None),
            },
            Part::Expression(_, variables) => {
                let delimiter = match parts.get(index + 1) {
                    Some(Part::Literal(next)) => next.bytes().next(),
                    _ => None,
                };
                let ends = |byte: &u8| Some(*byte) == delimiter || (slash_ends_a_value && *byte == b'/');
                let end = rest.iter().position(ends).unwrap_or(rest.len());
                let (value, after) = rest.split_at_checked(end).unwrap_or((rest, &[]));
                rest = after;
                // Whether the path has the template's shape comes first; faults of values wait until that is known.
                fault = fault.and(split_list(variables, value, out));
            }
        }
    }
    if rest.is_empty() { fault.map(Some) } else { Ok(None) }
}

/// The values of `{a,b}`. Undefined variables leave no trace (RFC 6570 §3.2.1), so a list may also consist of just the
/// two that every client defines.
fn split_list<'t, 'r>(
    variables: &'t [Variable],
    raw: &'r [u8],
    out: &mut Vec<Capture<'t, 'r>>,
) -> Result<(), VariableError> {
    if let [variable] = variables {
        out.push((variable, raw));
        return Ok(());
    }
    let required = || variables.iter().filter(|variable| !matches!(variable, Variable::Other(_)));
    let values = raw.split(|byte| *byte == b',');
    let count = values.clone().count();
    if count == variables.len() {
        out.extend(variables.iter().zip(values));
    } else if count == required().count() {
        out.extend(required().zip(values));
    } else if required().next().is_some() || count > variables.len() {
        let few = count < variables.len();
        return Err(if few { VariableError::MissingVariable } else { VariableError::UnknownVariable });
    }
    Ok(())
}

fn decode_all(captures: &[Capture<'_, '_>]) -> Result<PathMatch, VariableError> {
    let (mut host, mut port, mut others) = (None, None, Vec::new());
    for (variable, raw) in captures {
        let value = decode_once(raw)?;
        match variable {
            Variable::TargetHost => host = Some(target(value)?),
            Variable::TargetPort => port = Some(target(value)?),
            Variable::Other(name) => others.push((name.clone(), value)),
        }
    }
    match (host, port) {
        (Some(host), Some(port)) => Ok(PathMatch::Variables { host, port, others }),
        _ => Err(VariableError::MissingVariable),
    }
}

/// What no host and no port has after decoding; everything finer is for their own parsers.
fn target(value: String) -> Result<String, VariableError> {
    if value.is_empty() {
        Err(VariableError::EmptyValue)
    } else if value.contains(['[', ']']) {
        Err(VariableError::Brackets)
    } else if value.contains('%') {
        Err(VariableError::PercentSign)
    } else {
        Ok(value)
    }
}

fn decode_once(raw: &[u8]) -> Result<String, VariableError> {
    let mut decoded = Vec::with_capacity(raw.len());
    let mut rest = raw.iter();
    let hex = |byte: Option<&u8>| byte.and_then(|byte| char::from(*byte).to_digit(16));
    while let Some(byte) = rest.next() {
        match byte {
            b'%' => match (hex(rest.next()), hex(rest.next())) {
                (Some(high), Some(low)) => decoded.push((high << 4 | low) as u8),
                _ => return Err(VariableError::BadPercentEncoding),
            },
            byte if is_unreserved(*byte) => decoded.push(*byte),
            _ => return Err(VariableError::UnescapedCharacter),
        }
    }
    let decoded = String::from_utf8(decoded).map_err(|_| VariableError::NotUtf8)?;
    if decoded.contains(char::is_control) { Err(VariableError::ControlCharacter) } else { Ok(decoded) }
}

/// Whether every value ends where a character stands that no value has: no two expressions in a row, and no literal
/// behind an expression that a value could swallow.
fn has_one_reading(parts: &[Part]) -> bool {
    parts.iter().enumerate().all(|(index, part)| match (part, parts.get(index + 1)) {
        (Part::Literal(_), _) | (Part::Expression(Operator::Simple, _), None) => true,
        (Part::Expression(Operator::Simple, variables), Some(Part::Literal(next))) => next
            .bytes()
            .next()
            .is_some_and(|byte| !is_unreserved(byte) && byte != b'%' && (variables.len() == 1 || byte != b',')),
        (Part::Expression(..), _) => false,
    })
}

fn repeats_a_variable(path: &[Part], query: &[Part]) -> bool {
    let variables = || {
        path.iter().chain(query).flat_map(|part| match part {
            Part::Expression(_, variables) => &variables[..],
            Part::Literal(_) => &[],
        })
    };
    variables().enumerate().any(|(index, variable)| variables().skip(index + 1).any(|later| later == variable))
}
