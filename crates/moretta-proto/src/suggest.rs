//! The nearest valid word for a misspelt one.

/// The candidate with the fewest edits to `word`, if it is near enough to be meant: at most a third of the longer word,
/// and at least two. Ties go to the earlier candidate.
pub(crate) fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    // A key is a word; nobody misspells one of a thousand letters, and the distance is quadratic.
    if word.len() > 64 {
        return None;
    }
    let scored = candidates.into_iter().map(|candidate| (distance(word, candidate), candidate));
    let (edits, best) = scored.min_by_key(|(edits, _)| *edits)?;
    (edits <= (word.len().max(best.len()) / 3).max(2)).then_some(best)
}

/// Levenshtein distance in bytes.
fn distance(left: &str, right: &str) -> usize {
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (i, a) in left.bytes().enumerate() {
        let mut diagonal = i;
        let mut before = i + 1;
        let mut next = vec![before];
        for (b, above) in right.bytes().zip(row.iter().skip(1)) {
            let here = (diagonal + usize::from(a != b)).min(before + 1).min(above + 1);
            diagonal = *above;
            before = here;
            next.push(here);
        }
        row = next;
    }
    row.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_distance_counts_edits() {
        for (left, right, edits) in
            [("", "", 0), ("", "abc", 3), ("abc", "abc", 0), ("kitten", "sitting", 3), ("flaw", "lawn", 2)]
        {
            assert_eq!(distance(left, right), edits, "{left} {right}");
            assert_eq!(distance(right, left), edits, "{right} {left}");
        }
    }

    #[test]
    fn only_a_near_word_is_suggested() {
        let keys = ["action", "destination", "ports"];
        assert_eq!(nearest("destinations", keys), Some("destination"));
        assert_eq!(nearest("port", keys), Some("ports"));
        assert_eq!(nearest("acton", keys), Some("action"));
        assert_eq!(nearest("colour", keys), None);
        assert_eq!(nearest("x", []), None);
    }
}
