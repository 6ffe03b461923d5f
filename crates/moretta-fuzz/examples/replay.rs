//! Runs one input through one target: `cargo run -p moretta-fuzz --example replay -- TARGET FILE`.
//!
//! On a finding it looks for a shorter input with the same message, prints it, and fails.

use std::io::Write;
use std::panic::catch_unwind;

fn main() -> std::process::ExitCode {
    let mut arguments = std::env::args().skip(1);
    let (Some(name), Some(path)) = (arguments.next(), arguments.next()) else {
        writeln!(std::io::stderr(), "usage: replay TARGET FILE").ok();
        return 2.into();
    };
    let (Some(target), Ok(input)) =
        (moretta_fuzz::TARGETS.iter().find(|target| target.name == name), std::fs::read(&path))
    else {
        writeln!(std::io::stderr(), "no such target, or {path} cannot be read").ok();
        return 2.into();
    };
    if catch_unwind(|| (target.run)(&input)).is_ok() {
        writeln!(std::io::stdout(), "no finding").ok();
        return 0.into();
    }
    std::panic::set_hook(Box::new(|_| {}));
    let found = message(target.run, &input);
    let shorter = shorten(input, |input| message(target.run, input) == found);
    writeln!(std::io::stdout(), "{} bytes do the same: b\"{}\"", shorter.len(), shorter.escape_ascii()).ok();
    1.into()
}

/// What a panic says, up to its first number: those change when an input shrinks.
fn message(run: fn(&[u8]), input: &[u8]) -> Option<String> {
    let finding = catch_unwind(|| run(input)).err()?;
    let text = finding
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| finding.downcast_ref::<&str>().copied())
        .unwrap_or_default();
    Some(text.chars().take_while(|character| !character.is_ascii_digit()).collect())
}

/// Removes pieces, the large ones first, as long as `fails` holds.
fn shorten(mut input: Vec<u8>, fails: impl Fn(&[u8]) -> bool) -> Vec<u8> {
    let mut size = input.len().next_power_of_two();
    while size > 0 {
        let mut at = 0;
        while at < input.len() {
            let mut without = input.clone();
            without.drain(at..(at + size).min(input.len()));
            if fails(&without) {
                input = without;
            } else {
                at += size;
            }
        }
        size /= 2;
    }
    input
}
