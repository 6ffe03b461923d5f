//! Text to template, by the rules of RFC 9298 §2.

use super::matching::Query;
use super::{Operator, Origin, Part, UriTemplate, Variable};
use crate::host::{self, Host};

/// Why a text is no template for UDP tunnels. RFC 9298 §2: such a configuration is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TemplateError {
    /// RFC 9298 §2: only the characters 0x21 to 0x7E.
    #[error("the template contains {0:?}; only the ASCII characters 0x21 to 0x7E are allowed")]
    InvalidCharacter(char),
    /// RFC 9298 §2: absolute form, with scheme and authority.
    #[error("the template is not absolute; write it as https://host:port")]
    NotAbsolute,
    /// Tunnels are only ever asked for over TLS.
    #[error("the scheme of the template is not https")]
    SchemeNotHttps,
    /// RFC 9298 §2: the authority is not empty. User names have no place in it.
    #[error("the template has no valid host or port")]
    InvalidAuthority,
    /// RFC 9298 §2: the path is not empty and starts with a slash.
    #[error("the template has no path; it must start with a slash")]
    EmptyPath,
    /// RFC 9298 §2: variables stand in the path or in the query.
    #[error("the template has a variable outside path and query")]
    VariableOutsidePathAndQuery,
    /// A request has no fragment.
    #[error("the template has a fragment")]
    Fragment,
    /// RFC 9298 §2 forbids the operators + # . / ; and RFC 6570 §2.2 reserves = , ! @ |
    #[error("the operator {0:?} is not allowed; use {{name}}, {{?name}} or {{&name}}")]
    Operator(char),
    /// `{?` begins the query and `{&` continues it.
    #[error("{{?…}} must begin the query and {{&…}} must continue it")]
    MisplacedOperator,
    /// RFC 9298 §2: at most level 3, hence no prefix and no explode modifier.
    #[error("the modifier {0:?} is not allowed")]
    Modifier(char),
    /// RFC 6570 §2.3.
    #[error("a variable has no valid name")]
    InvalidVariableName,
    /// A brace without its counterpart.
    #[error("a brace is not closed or was never opened")]
    UnbalancedBrace,
    /// `%` without two hex digits.
    #[error("a percent sign is not followed by two hex digits")]
    BadPercentEncoding,
    /// RFC 9298 §2: both variables are there.
    #[error("the template does not name {0}")]
    MissingVariable(&'static str),
    /// Requests could not be read back; of concern to gateways only.
    #[error("requests to this template could be read in more than one way")]
    Ambiguous,
    /// More than scheme, host and port.
    #[error("an origin is https://host:port without a path")]
    NotAnOrigin,
}

impl TemplateError {
    /// A stable name for documents and vectors.
    pub const fn code(self) -> &'static str {
        match self {
            Self::InvalidCharacter(_) => "invalid_character",
            Self::NotAbsolute => "not_absolute",
            Self::SchemeNotHttps => "scheme_not_https",
            Self::InvalidAuthority => "invalid_authority",
            Self::EmptyPath => "empty_path",
            Self::VariableOutsidePathAndQuery => "variable_outside_path_and_query",
            Self::Fragment => "fragment",
            Self::Operator(_) => "operator",
            Self::MisplacedOperator => "misplaced_operator",
            Self::Modifier(_) => "modifier",
            Self::InvalidVariableName => "invalid_variable_name",
            Self::UnbalancedBrace => "unbalanced_brace",
            Self::BadPercentEncoding => "bad_percent_encoding",
            Self::MissingVariable(_) => "missing_variable",
            Self::Ambiguous => "ambiguous",
            Self::NotAnOrigin => "not_an_origin",
        }
    }
}

pub(super) fn absolute(template: &str) -> Result<UriTemplate, TemplateError> {
    check_characters(template)?;
    let (scheme, rest) = template.split_once("://").ok_or(TemplateError::NotAbsolute)?;
    if scheme.contains('{') {
        return Err(TemplateError::VariableOutsidePathAndQuery);
    }
    // RFC 3986 §3.1. Anything else before `://` is part of a path.
    let mut bytes = scheme.bytes();
    if !bytes.next().is_some_and(|first| first.is_ascii_alphabetic())
        || !bytes.all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.'))
    {
        return Err(TemplateError::NotAbsolute);
    }
    if !scheme.eq_ignore_ascii_case("https") {
        return Err(TemplateError::SchemeNotHttps);
    }
    let (authority, path) =
        rest.split_at_checked(rest.find(['/', '?', '#']).unwrap_or(rest.len())).unwrap_or((rest, ""));
    if authority.contains('{') {
        // `https://host{?…}`: the variables are where they belong, the path is missing.
        let only_a_query = authority.find('{') == Some(authority.len() - 1) && path.starts_with('?');
        let error = if only_a_query { TemplateError::EmptyPath } else { TemplateError::VariableOutsidePathAndQuery };
        return Err(error);
    }
    let origin = origin(authority).ok_or(TemplateError::InvalidAuthority)?;
    build(template, Some(origin), path)
}

pub(super) fn path_only(template: &str) -> Result<UriTemplate, TemplateError> {
    check_characters(template)?;
    let built = build(template, None, template)?;
    if built.matcher.is_none() { Err(TemplateError::Ambiguous) } else { Ok(built) }
}

/// RFC 9298 §2: 0x21 to 0x7E.
fn check_characters(template: &str) -> Result<(), TemplateError> {
    match template.chars().find(|character| !character.is_ascii_graphic()) {
        Some(character) => Err(TemplateError::InvalidCharacter(character)),
        None => Ok(()),
    }
}

fn origin(authority: &str) -> Option<Origin> {
    let (host, port) = if let Some(rest) = authority.strip_prefix('[') {
        let (host, rest) = rest.split_once(']')?;
        (Host::Ipv6(host.parse().ok()?), rest.strip_prefix(':').or_else(|| rest.is_empty().then_some("443"))?)
    } else {
        let (host, port) = authority.split_once(':').unwrap_or((authority, "443"));
        (Host::parse(host).ok()?, port)
    };
    let port = host::parse_port(port).ok()?;
    Some(Origin { host, port, authority: authority.to_ascii_lowercase() })
}

fn build(source: &str, origin: Option<Origin>, text: &str) -> Result<UriTemplate, TemplateError> {
    if !text.starts_with('/') {
        return Err(TemplateError::EmptyPath);
    }
    let (path, query) = parts(text)?;
    for required in [Variable::TargetHost, Variable::TargetPort] {
        let named = path.iter().chain(&query).any(|part| match part {
            Part::Expression(_, variables) => variables.contains(&required),
            Part::Literal(_) => false,
        });
        if !named {
            let name = if required == Variable::TargetHost { "target_host" } else { "target_port" };
            return Err(TemplateError::MissingVariable(name));
        }
    }
    let matcher = Query::of(&path, &query);
    Ok(UriTemplate { source: source.to_owned(), origin, path, query, matcher })
}

/// Literals and expressions, before and from the beginning of the query.
fn parts(text: &str) -> Result<(Vec<Part>, Vec<Part>), TemplateError> {
    let (mut path, mut query) = (Vec::new(), Vec::new());
    let mut in_query = false;
    let mut rest = text;
    while !rest.is_empty() {
        let part = if let Some(opened) = rest.strip_prefix('{') {
            let (inside, after) = opened.split_once('}').ok_or(TemplateError::UnbalancedBrace)?;
            rest = after;
            let (operator, variables) = expression(inside)?;
            match (operator, in_query) {
                (Operator::Query, true) | (Operator::Continuation, false) => {
                    return Err(TemplateError::MisplacedOperator);
                }
                (Operator::Query, false) => in_query = true,
                (Operator::Continuation, true) | (Operator::Simple, _) => {}
            }
            Part::Expression(operator, variables)
        } else {
            // Up to the next expression; a `?` begins a literal of its own, the first of the query.
            in_query |= rest.starts_with('?');
            let end = if in_query { rest.find('{') } else { rest.find(['{', '?']) };
            let (literal, after) = rest.split_at_checked(end.unwrap_or(rest.len())).unwrap_or((rest, ""));
            rest = after;
            check_literal(literal)?;
            Part::Literal(literal.to_owned())
        };
        if in_query { query.push(part) } else { path.push(part) }
    }
    Ok((path, query))
}

/// What stands between two braces.
fn expression(inside: &str) -> Result<(Operator, Vec<Variable>), TemplateError> {
    let (operator, names) = match inside.chars().next() {
        Some('?') => (Operator::Query, inside.strip_prefix('?')),
        Some('&') => (Operator::Continuation, inside.strip_prefix('&')),
        // RFC 9298 §2 and RFC 6570 §2.2.
        Some(other @ ('+' | '#' | '.' | '/' | ';' | '=' | ',' | '!' | '@' | '|')) => {
            return Err(TemplateError::Operator(other));
        }
        _ => (Operator::Simple, Some(inside)),
    };
    let variables = names.unwrap_or_default().split(',').map(variable).collect::<Result<_, _>>()?;
    Ok((operator, variables))
}

fn variable(name: &str) -> Result<Variable, TemplateError> {
    // RFC 6570 §2.4: level 4.
    if let Some(modifier) = name.chars().find(|character| matches!(character, ':' | '*')) {
        return Err(TemplateError::Modifier(modifier));
    }
    if name.contains('{') {
        return Err(TemplateError::UnbalancedBrace);
    }
    let word = |word: &str| {
        !word.is_empty()
            && word.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'%'))
            && check_percent(word).is_ok()
    };
    // RFC 6570 §2.3: letters, digits, `_` and percent-encoded triplets, with single dots between.
    if !name.split('.').all(word) {
        return Err(TemplateError::InvalidVariableName);
    }
    Ok(match name {
        "target_host" => Variable::TargetHost,
        "target_port" => Variable::TargetPort,
        other => Variable::Other(other.to_owned()),
    })
}

/// A literal goes into the request as it is, so it consists of what path and query may contain (RFC 3986 §3.3, §3.4).
fn check_literal(literal: &str) -> Result<(), TemplateError> {
    for character in literal.chars() {
        match character {
            '}' => return Err(TemplateError::UnbalancedBrace),
            '#' => return Err(TemplateError::Fragment),
            '"' | '<' | '>' | '\\' | '^' | '`' | '|' | '[' | ']' => {
                return Err(TemplateError::InvalidCharacter(character));
            }
            _ => {}
        }
    }
    check_percent(literal)
}

fn check_percent(text: &str) -> Result<(), TemplateError> {
    // What follows each `%`; the first piece follows none.
    for after in text.split('%').skip(1) {
        let mut bytes = after.bytes();
        if !(bytes.next().is_some_and(|byte| byte.is_ascii_hexdigit())
            && bytes.next().is_some_and(|byte| byte.is_ascii_hexdigit()))
        {
            return Err(TemplateError::BadPercentEncoding);
        }
    }
    Ok(())
}
