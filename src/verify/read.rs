//! From lines to records, with errors that name the line and the field. Pure: lines in, records out.

use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::record::{FORMAT, Record};

/// Where a line is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    /// Which file, from 0.
    pub file: u32,
    /// Which line of it, from 1.
    pub line: u32,
}

/// Why a line cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LineError {
    /// It is not a JSON object with a `record`.
    #[error("not a line of a history: {0}")]
    NotARecord(String),
    /// A field is missing or wrong.
    #[error("record `{record}`{}: {why}", .field.as_ref().map(|f| format!(", field `{f}`")).unwrap_or_default())]
    Field {
        /// Kind of the record.
        record: String,
        /// The field, when it can be told.
        field: Option<String>,
        /// What is wrong.
        why: String,
    },
    /// The history is of a newer format.
    #[error("format {0} is newer than this program, which reads format {FORMAT}")]
    Newer(u32),
}

#[derive(Deserialize)]
struct Head {
    record: String,
}

/// Reads one line. `None` for a kind of record that a newer release has added.
///
/// # Errors
/// See [`LineError`].
pub fn line(text: &str) -> Result<Option<Record>, LineError> {
    let head: Head = serde_json::from_str(text).map_err(|error| LineError::NotARecord(words(&error)))?;
    let kind = head.record.as_str();
    Ok(Some(match kind {
        "meta" => {
            let meta: super::record::Meta = body(kind, text)?;
            if meta.format > FORMAT {
                return Err(LineError::Newer(meta.format));
            }
            Record::Meta(meta)
        }
        "fault" => Record::Fault(body(kind, text)?),
        "call" => Record::Call(body(kind, text)?),
        "socket" => Record::Socket(body(kind, text)?),
        "snapshot" => Record::Snapshot(body(kind, text)?),
        "event" => Record::Event(body(kind, text)?),
        "execution" => Record::Execution(body(kind, text)?),
        "task" => Record::Task(body(kind, text)?),
        "items" => Record::Items(body(kind, text)?),
        "gauge" => Record::Gauge(body(kind, text)?),
        "end" => Record::End(body(kind, text)?),
        _ => return Ok(None),
    }))
}

fn body<T: DeserializeOwned>(kind: &str, text: &str) -> Result<T, LineError> {
    serde_json::from_str(text).map_err(|error| LineError::Field {
        record: kind.to_owned(),
        field: field(&error, text),
        why: words(&error),
    })
}

/// The error without its place in the text, which is one line.
fn words(error: &serde_json::Error) -> String {
    let text = error.to_string();
    text.rsplit_once(" at line ").map_or(text.clone(), |(words, _)| words.to_owned())
}

/// The field that an error is about: the one it names, else the last key before the place where reading stopped.
fn field(error: &serde_json::Error, text: &str) -> Option<String> {
    let words = error.to_string();
    if let Some(named) = words.strip_prefix("missing field `") {
        return named.split('`').next().map(str::to_owned);
    }
    let before = text.get(..error.column().min(text.len()))?;
    let (keys, _) = before.rsplit_once("\":")?;
    keys.rsplit('"').next().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(text: &str) -> String {
        line(text).unwrap_err().to_string()
    }

    #[test]
    fn errors_name_the_record_the_field_and_what_is_wrong() {
        assert_eq!(error(r#"{"record":"end"}"#), "record `end`, field `at_us`: missing field `at_us`");
        assert_eq!(
            error(r#"{"record":"call","at_us":5,"call":"submit","user":"a","status":"200"}"#),
            "record `call`, field `status`: invalid type: string \"200\", expected u16"
        );
        let bad_id = error(r#"{"record":"execution","at_us":5,"task":"x","item":"n"}"#);
        assert!(bad_id.starts_with("record `execution`, field `task`: "), "{bad_id}");
        let not_json = error("{\"record\":");
        assert!(not_json.starts_with("not a line of a history: EOF"), "{not_json}");
        assert!(error(r#"{"at_us":1}"#).contains("missing field `record`"));
        assert!(error(r#"{"record":"meta","format":9}"#).starts_with("format 9 is newer"));
    }

    #[test]
    fn kinds_and_fields_of_a_newer_release_are_left_out() {
        assert_eq!(line(r#"{"record":"weather","rain":true}"#), Ok(None));
        let end = line(r#"{"record":"end","at_us":7,"mood":"calm"}"#);
        assert_eq!(end, Ok(Some(Record::End(super::super::record::End { at_us: 7 }))));
    }
}
