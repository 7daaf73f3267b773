//! Entries as they come off the wire, and the chain that shows whether any are missing. Pure.
//!
//! Every entry names the one before it. A reader whose last entry is that one has missed nothing; otherwise entries
//! were trimmed, or the tail it had read was lost with a primary. That is exact where comparing with the oldest entry
//! is a guess, and costs no further call. Fields are in `redis/KEYS.md`; ones of a newer release are passed over.

use bytes::Bytes;
use redis::Value;

use crate::bus::Loss;
use crate::task::{Attempt, EntryId, Seq, TaskId};

/// An entry as it was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Raw {
    pub(super) id: EntryId,
    /// What it says; `None` for an entry that cannot be read.
    pub(super) fields: Option<Fields>,
}

/// What an entry says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Fields {
    pub(super) task_id: TaskId,
    pub(super) attempt: Attempt,
    pub(super) seq: Seq,
    pub(super) terminal: bool,
    /// The entry before it.
    pub(super) previous: EntryId,
    pub(super) body: Bytes,
}

/// One thing that reading entries leads to, in order.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// A new entry.
    New(EntryId, Fields),
    /// An entry at or before the cursor: it was delivered before, or belongs to a tail that another primary wrote.
    Known(EntryId),
    /// Entries are missing before the next one.
    Lost(Loss),
    /// Entries are missing before the next one in this reply. The rest of it is left out.
    Doubt,
}

/// Follows the chain from `cursor` on, and moves it.
///
/// A gap is a loss only in a `whole` reply, one that was read from the cursor on for certain. In others the group may
/// have been moved by an earlier read whose reply never came, and the missing entries may still be there.
pub(super) fn follow_chain(cursor: &mut EntryId, entries: Vec<Raw>, whole: bool) -> Vec<Step> {
    let mut steps = Vec::with_capacity(entries.len());
    for Raw { id, fields } in entries {
        if id <= *cursor {
            steps.push(Step::Known(id));
            continue;
        }
        let Some(fields) = fields else {
            steps.push(Step::Known(id));
            steps.push(Step::Lost(Loss::Reader));
            *cursor = id;
            continue;
        };
        match gap(*cursor, fields.previous) {
            Some(_) if !whole => {
                steps.push(Step::Doubt);
                return steps;
            }
            loss => steps.extend(loss.map(Step::Lost)),
        }
        steps.push(Step::New(id, fields));
        *cursor = id;
    }
    steps
}

/// What is missing between a cursor and an entry after it that names `previous` as its predecessor.
pub(super) fn gap(cursor: EntryId, previous: EntryId) -> Option<Loss> {
    match previous.cmp(&cursor) {
        std::cmp::Ordering::Equal => None,
        std::cmp::Ordering::Greater => Some(Loss::Trimmed),
        // The entry that the cursor stands at is not in this stream any more.
        std::cmp::Ordering::Less => Some(Loss::Ahead),
    }
}

/// The streams of an `XREADGROUP` reply, each with its key and its entries. Nil is none.
pub(super) fn streams(reply: Value) -> Vec<(Vec<u8>, Vec<Raw>)> {
    let stream = |value| match pair(value)? {
        (Value::BulkString(key), list) => Some((key, entries(list))),
        _ => None,
    };
    array(reply).into_iter().filter_map(stream).collect()
}

/// The entries of a list, as of `XRANGE`.
pub(super) fn entries(list: Value) -> Vec<Raw> {
    array(list).into_iter().filter_map(entry).collect()
}

/// Ids and bodies of entries that are nothing but a body.
pub(super) fn bodies(list: Value) -> Vec<(String, Bytes)> {
    let body = |value| {
        let (id, list) = pair(value)?;
        let (_name, body) = pair(list)?;
        Some((text(&id)?.to_owned(), bytes(body)?))
    };
    array(list).into_iter().filter_map(body).collect()
}

fn entry(value: Value) -> Option<Raw> {
    let (id, list) = pair(value)?;
    Some(Raw { id: text(&id)?.parse().ok()?, fields: fields(list) })
}

fn fields(list: Value) -> Option<Fields> {
    let (mut task_id, mut number, mut terminal, mut previous, mut body) = (None, None, None, None, None);
    let mut values = array(list).into_iter();
    while let (Some(Value::BulkString(name)), Some(value)) = (values.next(), values.next()) {
        match name.as_slice() {
            b"t" => task_id = text(&value)?.parse().ok(),
            b"n" => number = attempt_seq(text(&value)?),
            b"e" => terminal = Some(text(&value)? == "1"),
            b"p" => previous = text(&value)?.parse().ok(),
            b"d" => body = bytes(value),
            _ => {}
        }
    }
    let (attempt, seq) = number?;
    Some(Fields { task_id: task_id?, attempt, seq, terminal: terminal?, previous: previous?, body: body? })
}

fn attempt_seq(text: &str) -> Option<(Attempt, Seq)> {
    let (attempt, seq) = text.split_once('-')?;
    Some((Attempt(attempt.parse().ok()?), Seq(seq.parse().ok()?)))
}

fn array(value: Value) -> Vec<Value> {
    match value {
        Value::Array(values) => values,
        _ => Vec::new(),
    }
}

fn pair(value: Value) -> Option<(Value, Value)> {
    let [first, second] = <[Value; 2]>::try_from(array(value)).ok()?;
    Some((first, second))
}

fn bytes(value: Value) -> Option<Bytes> {
    match value {
        Value::BulkString(bytes) => Some(bytes.into()),
        _ => None,
    }
}

fn text(value: &Value) -> Option<&str> {
    match value {
        Value::BulkString(bytes) => std::str::from_utf8(bytes).ok(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn bulk(text: &str) -> Value {
        Value::BulkString(text.as_bytes().to_vec())
    }

    fn id(n: u64) -> EntryId {
        EntryId { major: n, minor: 0 }
    }

    fn raw(n: u64, previous: u64) -> Raw {
        let fields = Fields {
            task_id: TaskId::from_uuid(uuid::Uuid::from_u128(7)),
            attempt: Attempt(1),
            seq: Seq(n),
            terminal: false,
            previous: id(previous),
            body: Bytes::from_static(b"{}"),
        };
        Raw { id: id(n), fields: Some(fields) }
    }

    /// A stream in which entry `n` follows entry `n - 1`.
    fn chain(numbers: impl IntoIterator<Item = u64>) -> Vec<Raw> {
        numbers.into_iter().map(|n| raw(n, n - 1)).collect()
    }

    /// New entries and losses in short form: the number of an entry, or the loss.
    fn outcome(cursor: u64, entries: Vec<Raw>) -> Vec<Result<u64, Loss>> {
        let steps = follow_chain(&mut id(cursor), entries, true).into_iter();
        steps
            .filter_map(|step| match step {
                Step::New(id, _) => Some(Ok(id.major)),
                Step::Lost(loss) => Some(Err(loss)),
                Step::Known(_) | Step::Doubt => None,
            })
            .collect()
    }

    #[test]
    fn a_whole_chain_is_new_and_complete() {
        assert_eq!(outcome(0, chain(1..=3)), [Ok(1), Ok(2), Ok(3)]);
    }

    #[test]
    fn repeats_are_passed_over() {
        assert_eq!(outcome(2, chain(1..=4)), [Ok(3), Ok(4)]);
    }

    #[test]
    fn trimmed_entries_are_a_loss_before_what_survives() {
        assert_eq!(outcome(1, chain(3..=4)), [Err(Loss::Trimmed), Ok(3), Ok(4)]);
    }

    #[test]
    fn a_gap_in_a_reply_that_may_not_be_whole_stops_there() {
        let mut cursor = id(1);
        let steps = follow_chain(&mut cursor, chain([2, 4, 5]), false);
        assert!(matches!(steps.as_slice(), [Step::New(_, _), Step::Doubt]), "{steps:?}");
        assert_eq!(cursor, id(2), "what was not handed on is read again from here");
    }

    #[test]
    fn a_tail_that_another_primary_wrote_is_a_loss() {
        // Entries 3 to 5 were read from a primary that died; the new one knew 2 and went on with 9.
        assert_eq!(outcome(5, vec![raw(9, 2), raw(10, 9)]), [Err(Loss::Ahead), Ok(9), Ok(10)]);
    }

    #[test]
    fn an_entry_that_cannot_be_read_is_a_loss() {
        let odd = Raw { id: id(2), fields: None };
        assert_eq!(outcome(1, vec![odd, raw(3, 2)]), [Err(Loss::Reader), Ok(3)]);
    }

    proptest! {
        #[test]
        fn only_what_is_missing_is_a_loss(cursor in 0_u64..20, kept in prop::collection::btree_set(1_u64..40, 0..40)) {
            let found = outcome(cursor, chain(kept.iter().copied()));
            let new: Vec<u64> = found.iter().filter_map(|step| step.as_ref().ok().copied()).collect();
            prop_assert_eq!(&new, &kept.iter().copied().filter(|n| *n > cursor).collect::<Vec<_>>());
            let mut before = cursor;
            let mut lost = false;
            for step in found {
                match step {
                    Err(_) => lost = true,
                    Ok(n) => {
                        prop_assert_eq!(lost, n != before + 1);
                        (before, lost) = (n, false);
                    }
                }
            }
        }
    }

    #[test]
    fn a_reply_is_read_and_unknown_fields_are_passed_over() {
        let task = "0190a000-0000-7000-8000-000000000001";
        let list =
            ["t", task, "n", "3-17", "e", "1", "p", "4-1", "x", "?", "d", "{\"a\":1}"].map(bulk).to_vec();
        let entry = Value::Array(vec![bulk("5-2"), Value::Array(list)]);
        let gone = Value::Array(vec![bulk("6-0"), Value::Nil]);
        let reply = Value::Array(vec![Value::Array(vec![bulk("key"), Value::Array(vec![entry, gone])])]);
        let streams = streams(reply);
        assert_eq!(streams.len(), 1);
        let (key, entries) = &streams[0];
        assert_eq!(key, b"key");
        let fields = entries[0].fields.as_ref().unwrap();
        assert_eq!(entries[0].id, EntryId { major: 5, minor: 2 });
        assert_eq!((fields.attempt, fields.seq, fields.terminal), (Attempt(3), Seq(17), true));
        assert_eq!(fields.previous, EntryId { major: 4, minor: 1 });
        assert_eq!(fields.body, "{\"a\":1}");
        assert_eq!(fields.task_id.to_string(), task);
        assert_eq!(entries[1], Raw { id: id(6), fields: None });
    }

    #[test]
    fn nil_and_nonsense_are_no_entries() {
        assert!(streams(Value::Nil).is_empty());
        assert!(streams(Value::Array(vec![bulk("a"), Value::Array(vec![bulk("b")])])).is_empty());
        assert!(entries(Value::Int(1)).is_empty());
    }
}
