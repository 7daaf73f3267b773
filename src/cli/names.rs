//! Names of items as people write them: `node-[001-100]`, `rack[1-3]-n[1,3,7-9]`, or a file with one per line.
//!
//! Pure. Nothing is generated before the number of names is known and within the bound. Not here: whether a name is
//! one that the API takes ([`crate::task::TaskSpec`]).

use std::collections::HashMap;

use crate::task::spec::ITEMS_MAX;

/// Why a pattern is not one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NamesError {
    /// The brackets or what is in them cannot be read.
    #[error("{pattern:?}: {why}")]
    Pattern {
        /// The pattern.
        pattern: String,
        /// What is wrong and what would be right.
        why: String,
    },
    /// The patterns stand for more names than a task may have.
    #[error("{pattern:?} makes it {count} names; a task may have at most {ITEMS_MAX}")]
    TooMany {
        /// The pattern that went past the bound.
        pattern: String,
        /// Names up to and with it.
        count: u64,
    },
    /// A name comes twice.
    #[error("{name:?} comes twice: from {first:?} and from {second:?}")]
    Repeat {
        /// The name.
        name: String,
        /// Where it came from first.
        first: String,
        /// Where it came from again.
        second: String,
    },
}

/// Every name that the patterns stand for, in their order.
///
/// # Errors
/// The first pattern that cannot be read, goes past the bound, or repeats a name.
pub fn expand<'a>(patterns: impl IntoIterator<Item = &'a str>) -> Result<Vec<String>, NamesError> {
    let (mut names, mut origins, mut sources) = (Vec::new(), HashMap::new(), Vec::new());
    for pattern in patterns {
        let parsed = Pattern::parse(pattern)?;
        let count = names.len() as u64 + parsed.count();
        if count > ITEMS_MAX as u64 {
            return Err(NamesError::TooMany { pattern: pattern.to_owned(), count });
        }
        sources.push(pattern);
        for name in parsed.names() {
            if let Some(first) = origins.insert(name.clone(), sources.len() - 1) {
                let (first, second) = (sources[first].to_owned(), pattern.to_owned());
                return Err(NamesError::Repeat { name, first, second });
            }
            names.push(name);
        }
    }
    Ok(names)
}

/// The patterns in a file: one per line; blank lines and what follows a `#` are left out.
pub fn lines(text: &str) -> impl Iterator<Item = &str> {
    text.lines().map(|line| line.split('#').next().unwrap_or_default().trim()).filter(|line| !line.is_empty())
}

/// A piece of a pattern: fixed text, or a choice.
#[derive(Debug)]
enum Piece<'a> {
    Text(&'a str),
    Choice(Vec<Span<'a>>),
}

/// One entry between brackets.
#[derive(Debug)]
enum Span<'a> {
    Word(&'a str),
    Numbers { from: u64, to: u64, width: usize },
}

impl Span<'_> {
    fn count(&self) -> u64 {
        match self {
            Self::Word(_) => 1,
            Self::Numbers { from, to, .. } => (to - from).saturating_add(1),
        }
    }

    fn push_texts(&self, texts: &mut Vec<String>) {
        match *self {
            Self::Word(word) => texts.push(word.to_owned()),
            Self::Numbers { from, to, width } => texts.extend((from..=to).map(|n| format!("{n:0width$}"))),
        }
    }
}

#[derive(Debug)]
struct Pattern<'a> {
    pieces: Vec<Piece<'a>>,
}

impl<'a> Pattern<'a> {
    fn parse(pattern: &'a str) -> Result<Self, NamesError> {
        let fail = |why: String| NamesError::Pattern { pattern: pattern.to_owned(), why };
        let (mut pieces, mut rest) = (Vec::new(), pattern);
        while let Some((text, after)) = rest.split_once('[') {
            if text.contains(']') {
                return Err(fail("a ']' has no '[' before it".into()));
            }
            let (inside, after) =
                after.split_once(']').ok_or_else(|| fail("a '[' is not closed; add ']'".into()))?;
            if inside.contains('[') {
                return Err(fail("brackets cannot stand inside brackets".into()));
            }
            pieces.push(Piece::Text(text));
            let spans: Result<Vec<_>, String> = inside.split(',').map(|entry| span(entry.trim())).collect();
            pieces.push(Piece::Choice(spans.map_err(fail)?));
            rest = after;
        }
        if rest.contains(']') {
            return Err(fail("a ']' has no '[' before it".into()));
        }
        pieces.push(Piece::Text(rest));
        Ok(Self { pieces })
    }

    fn count(&self) -> u64 {
        let choices = self.pieces.iter().map(|piece| match piece {
            Piece::Text(_) => 1,
            Piece::Choice(spans) => spans.iter().map(Span::count).fold(0, u64::saturating_add),
        });
        choices.fold(1, u64::saturating_mul)
    }

    /// All names; the last bracket runs fastest. Call it only when the count is within the bound.
    fn names(&self) -> Vec<String> {
        let mut names = vec![String::new()];
        for piece in &self.pieces {
            match piece {
                Piece::Text(text) => names.iter_mut().for_each(|name| name.push_str(text)),
                Piece::Choice(spans) => {
                    let mut texts = Vec::new();
                    spans.iter().for_each(|span| span.push_texts(&mut texts));
                    let longer =
                        |name: &String| texts.iter().map(|text| format!("{name}{text}")).collect::<Vec<_>>();
                    names = names.iter().flat_map(longer).collect();
                }
            }
        }
        names
    }
}

/// Reads one entry: a word, or two numbers with a hyphen. A first number with leading zeros sets the width of all.
fn span(entry: &str) -> Result<Span<'_>, String> {
    if entry.is_empty() {
        return Err("an entry between brackets is empty".into());
    }
    let Some((from, to)) = entry.split_once('-') else { return Ok(Span::Word(entry)) };
    let number = |text: &str| -> Result<u64, String> {
        let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        let value = if digits { text.parse().ok() } else { None };
        value.ok_or_else(|| format!("{entry:?} is not a range of numbers, such as 001-100"))
    };
    let (first, last) = (number(from)?, number(to)?);
    if last < first {
        return Err(format!("{entry:?} runs backwards; write {to}-{from}"));
    }
    let padded = from.len() > 1 && from.starts_with('0') || to.len() > 1 && to.starts_with('0');
    if padded && from.len() != to.len() {
        return Err(format!("{entry:?} has numbers of different widths; write both with as many digits"));
    }
    Ok(Span::Numbers { from: first, to: last, width: if padded { from.len() } else { 0 } })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn patterns_stand_for_their_names() {
        let table: [(&[&str], &[&str]); 9] = [
            (&["a"], &["a"]),
            (&["node-[1-3]"], &["node-1", "node-2", "node-3"]),
            (&["node-[08-11].x"], &["node-08.x", "node-09.x", "node-10.x", "node-11.x"]),
            (&["n-[1,3,7-9]"], &["n-1", "n-3", "n-7", "n-8", "n-9"]),
            (&["n[a,b]"], &["na", "nb"]),
            (&["r[1-2]n[1-2]"], &["r1n1", "r1n2", "r2n1", "r2n2"]),
            (&["x", "y-[9-10]", "z"], &["x", "y-9", "y-10", "z"]),
            (&["[ 1 , 2 ]"], &["1", "2"]),
            (&["[0-1]"], &["0", "1"]),
        ];
        for (patterns, names) in table {
            assert_eq!(expand(patterns.iter().copied()).unwrap(), names, "{patterns:?}");
        }
    }

    #[test]
    fn what_is_not_a_pattern_is_refused_with_a_reason() {
        for (pattern, why) in [
            ("n-[1", "not closed"),
            ("n-1]", "no '['"),
            ("n]-[1]", "no '['"),
            ("n-[[1]]", "inside brackets"),
            ("n-[]", "is empty"),
            ("n-[1,]", "is empty"),
            ("n-[a-c]", "not a range of numbers"),
            ("n-[1-]", "not a range of numbers"),
            ("n-[1--2]", "not a range of numbers"),
            ("n-[3-1]", "write 1-3"),
            ("n-[01-100]", "different widths"),
            ("n-[1-99999999999999999999]", "not a range of numbers"),
        ] {
            let error = expand([pattern]).unwrap_err().to_string();
            assert!(error.contains(why) && error.contains(pattern), "{error}");
        }
    }

    #[test]
    fn the_number_of_names_is_bounded_before_any_is_made() {
        assert_eq!(expand(["n-[1-100000]"]).unwrap().len(), ITEMS_MAX);
        assert!(matches!(expand(["n-[1-100000]", "x"]), Err(NamesError::TooMany { count: 100_001, .. })));
        let huge = "[0-18446744073709551615]".repeat(5);
        assert!(matches!(expand([huge.as_str()]), Err(NamesError::TooMany { count: u64::MAX, .. })));
    }

    #[test]
    fn a_name_that_comes_twice_is_refused_with_both_places() {
        let error = expand(["n-[1-5]", "x", "n-3"]).unwrap_err().to_string();
        assert!(error.contains("\"n-3\"") && error.contains("\"n-[1-5]\""), "{error}");
        assert!(expand(["n[1,1]"]).is_err());
    }

    #[test]
    fn files_hold_one_pattern_per_line_and_comments() {
        let text = "# rack 1\nnode-1\n\n  node-2  # broken fan\r\nnode-[3-4]\n#end";
        assert_eq!(lines(text).collect::<Vec<_>>(), ["node-1", "node-2", "node-[3-4]"]);
    }

    proptest! {
        #[test]
        fn any_text_is_expanded_or_refused(patterns in prop::collection::vec("[a-c0-3\\[\\],-]{0,12}", 0..4)) {
            if let Ok(names) = expand(patterns.iter().map(String::as_str)) {
                prop_assert!(names.len() <= ITEMS_MAX);
                prop_assert!(names.iter().all(|name| !name.contains(['[', ']'])));
            }
        }

        #[test]
        fn a_range_holds_each_number_once_in_order(from in 0_u64..500, len in 0_u64..500, width in 4_usize..7) {
            let to = from + len;
            let names = expand([format!("n[{from:0width$}-{to:0width$}]x").as_str()]).unwrap();
            let expected: Vec<String> = (from..=to).map(|n| format!("n{n:0width$}x")).collect();
            prop_assert_eq!(names, expected);
        }
    }
}
