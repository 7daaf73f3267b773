//! Rows of the bus as words of the port. A row that breaks a rule of the tables is an error that names the column.

use bytes::Bytes;
use sqlx::postgres::PgRow;
use sqlx::{FromRow, Row};

use crate::bus::{Entry, Loss};
use crate::task::{Attempt, EntryId, Epoch, Position, Seq, TaskId};

/// What `bus_publish_v2` did.
#[derive(Debug)]
pub(super) enum Outcome {
    Appended(Position),
    Repeat,
    Fenced(Attempt),
}

impl FromRow<'_, PgRow> for Outcome {
    fn from_row(row: &PgRow) -> Result<Self, sqlx::Error> {
        match row.try_get("outcome")? {
            "appended" => Ok(Self::Appended(position(row, "id")?)),
            "repeat" => Ok(Self::Repeat),
            "fenced" => Ok(Self::Fenced(Attempt(number(row, "attempt")?))),
            other => Err(corrupt("outcome", format!("{other:?} is no outcome").into())),
        }
    }
}

/// Where a stream ends.
#[derive(Debug)]
pub(super) struct Head(pub(super) Position);

impl FromRow<'_, PgRow> for Head {
    fn from_row(row: &PgRow) -> Result<Self, sqlx::Error> {
        position(row, "head").map(Self)
    }
}

/// What a read found for one cursor.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// Where the stream ends; `None` when there is no stream.
    pub(super) head: Option<Position>,
    /// Events after the cursor, oldest first.
    pub(super) entries: Vec<Entry>,
}

/// Groups the rows of a read by cursor. `None` for one that the limit of rows cut off.
pub(super) fn group(rows: &[PgRow], cursors: usize) -> Result<Vec<Option<Found>>, sqlx::Error> {
    let mut all: Vec<Option<Found>> = (0..cursors).map(|_| None).collect();
    for row in rows {
        let place: usize = number(row, "place")?;
        let slot = place.checked_sub(1).and_then(|index| all.get_mut(index));
        let slot = slot.ok_or_else(|| corrupt("place", "no such cursor".into()))?;
        let found = slot.get_or_insert_with(Found::default);
        if row.try_get::<Option<&str>, _>("epoch")?.is_none() {
            continue;
        }
        found.head = Some(position(row, "head")?);
        if row.try_get::<Option<i64>, _>("id")?.is_some() {
            found.entries.push(entry(row)?);
        }
    }
    Ok(all)
}

impl Found {
    /// Why what was found does not continue `after`, if so. `None` as cursor continues into any stream from its start.
    ///
    /// Ids are dense, so anything but the very next id means that entries were trimmed.
    pub(super) fn loss(&self, after: Option<&Position>) -> Option<Loss> {
        let Some(head) = &self.head else {
            return after.map(|_| Loss::Epoch);
        };
        let start = Position::new(head.epoch.clone(), EntryId::START);
        let after = after.unwrap_or(&start);
        if after.epoch != head.epoch {
            return Some(Loss::Epoch);
        }
        if after.id > head.id {
            return Some(Loss::Ahead);
        }
        let mut last = after.id.major;
        for entry in &self.entries {
            if entry.position.id.major != last + 1 {
                return Some(Loss::Trimmed);
            }
            last += 1;
        }
        (self.entries.is_empty() && last < head.id.major).then_some(Loss::Trimmed)
    }

    /// The place after the last entry found, or at the end of the stream when there is none.
    pub(super) fn end(&self) -> Option<Position> {
        self.entries.last().map(|entry| entry.position.clone()).or_else(|| self.head.clone())
    }

    /// Whether the entries reach the end of the stream.
    pub(super) fn is_complete(&self) -> bool {
        self.end() == self.head
    }
}

fn entry(row: &PgRow) -> Result<Entry, sqlx::Error> {
    Ok(Entry {
        position: position(row, "id")?,
        task_id: TaskId::from_uuid(row.try_get("task_id")?),
        attempt: Attempt(number(row, "attempt")?),
        seq: Seq(number(row, "seq")?),
        terminal: row.try_get("terminal")?,
        body: Bytes::from(row.try_get::<Vec<u8>, _>("body")?),
        receipt: None,
    })
}

fn position(row: &PgRow, id: &str) -> Result<Position, sqlx::Error> {
    let epoch = Epoch::new(row.try_get("epoch")?).map_err(|error| corrupt("epoch", error.into()))?;
    Ok(Position::new(epoch, EntryId::counted(number(row, id)?)))
}

fn number<T: TryFrom<i64>>(row: &PgRow, column: &str) -> Result<T, sqlx::Error> {
    let value: i64 = row.try_get(column)?;
    T::try_from(value).map_err(|_| corrupt(column, format!("{value} is out of range").into()))
}

fn corrupt(column: &str, source: crate::BoxError) -> sqlx::Error {
    sqlx::Error::ColumnDecode { index: column.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(epoch: &str, id: u64) -> Position {
        Position::new(Epoch::new(epoch).unwrap(), EntryId::counted(id))
    }

    fn found(head: u64, ids: &[u64]) -> Found {
        let entry = |id: &u64| Entry {
            position: at("now", *id),
            task_id: TaskId::generate(),
            attempt: Attempt(1),
            seq: Seq(*id),
            terminal: false,
            body: Bytes::new(),
            receipt: None,
        };
        Found { head: Some(at("now", head)), entries: ids.iter().map(entry).collect() }
    }

    #[test]
    fn only_the_very_next_id_continues_a_cursor() {
        assert_eq!(found(5, &[4, 5]).loss(Some(&at("now", 3))), None);
        assert_eq!(found(5, &[]).loss(Some(&at("now", 5))), None);
        assert_eq!(found(5, &[5]).loss(Some(&at("now", 3))), Some(Loss::Trimmed));
        assert_eq!(found(5, &[3, 5]).loss(Some(&at("now", 2))), Some(Loss::Trimmed));
        assert_eq!(found(5, &[]).loss(Some(&at("now", 3))), Some(Loss::Trimmed));
        assert_eq!(found(5, &[]).loss(Some(&at("now", 6))), Some(Loss::Ahead));
        assert_eq!(found(5, &[]).loss(Some(&at("before", 3))), Some(Loss::Epoch));
        assert_eq!(Found::default().loss(Some(&at("now", 3))), Some(Loss::Epoch));
    }

    #[test]
    fn a_user_without_a_stream_begins_with_its_first_entry() {
        assert_eq!(Found::default().loss(None), None);
        assert_eq!(found(2, &[1, 2]).loss(None), None);
        assert_eq!(found(2, &[2]).loss(None), Some(Loss::Trimmed));
    }

    #[test]
    fn a_page_is_complete_at_the_head() {
        assert!(found(2, &[1, 2]).is_complete());
        assert!(found(2, &[]).is_complete());
        assert!(!found(3, &[1, 2]).is_complete());
        assert!(Found::default().is_complete());
    }
}
