//! The one body that clients of Kubernetes send as protobuf and nothing else here: the options of a delete. Pure.
//!
//! A body is the mark `k8s\0` and an `Unknown` message, whose field 2 holds the object. Fields that are not needed are
//! skipped; numbers are those of `k8s.io/apimachinery/pkg/apis/meta/v1/generated.proto`.

use serde_json::{Value, json};

const MARK: &[u8] = b"k8s\0";
/// Longest number, in bytes.
const VARINT_BYTES_MAX: usize = 10;

/// A field of a message.
enum Field<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

/// `DeleteOptions` as JSON would have it; `None` when the bytes are something else.
pub(super) fn delete_options(body: &[u8]) -> Option<Value> {
    let mut options = json!({});
    let object = fields(body.strip_prefix(MARK)?)?.into_iter().find_map(|field| match field {
        (2, Field::Bytes(object)) => Some(object),
        _ => None,
    })?;
    for field in fields(object)? {
        match field {
            // A number that is below zero has its sign in the highest bit.
            (1, Field::Number(secs)) => options["gracePeriodSeconds"] = secs.cast_signed().into(),
            (2, Field::Bytes(preconditions)) => options["preconditions"] = texts(preconditions)?,
            (5, Field::Bytes(stage)) => options["dryRun"] = json!([std::str::from_utf8(stage).ok()?]),
            _ => {}
        }
    }
    Some(options)
}

fn texts(preconditions: &[u8]) -> Option<Value> {
    let mut read = json!({});
    for field in fields(preconditions)? {
        match field {
            (1, Field::Bytes(uid)) => read["uid"] = std::str::from_utf8(uid).ok()?.into(),
            (2, Field::Bytes(version)) => read["resourceVersion"] = std::str::from_utf8(version).ok()?.into(),
            _ => {}
        }
    }
    Some(read)
}

/// The fields of a message with their numbers, in order.
fn fields(mut bytes: &[u8]) -> Option<Vec<(u64, Field<'_>)>> {
    let mut fields = Vec::new();
    while !bytes.is_empty() {
        let tag = varint(&mut bytes)?;
        let field = match tag & 7 {
            0 => Field::Number(varint(&mut bytes)?),
            2 => {
                let len = usize::try_from(varint(&mut bytes)?).ok()?;
                let (field, rest) = bytes.split_at_checked(len)?;
                bytes = rest;
                Field::Bytes(field)
            }
            _ => return None,
        };
        fields.push((tag >> 3, field));
    }
    Some(fields)
}

fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut number = 0;
    for place in 0..VARINT_BYTES_MAX {
        let (&byte, rest) = bytes.split_first()?;
        *bytes = rest;
        number |= u64::from(byte & 0x7f) << (7 * place).min(63);
        if byte & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn options_are_read() {
        let preconditions = [0x0a, 3, b'u', b'-', b'1'];
        let mut object = vec![0x08, 0x96, 0x01, 0x12, 5];
        object.extend(preconditions);
        object.extend([0x18, 1, 0x2a, 3, b'A', b'l', b'l']);
        let mut body = b"k8s\0\x0a\x02\x0a\x00".to_vec();
        body.extend([0x12, u8::try_from(object.len()).unwrap()]);
        body.extend(&object);
        let expected = json!({"gracePeriodSeconds": 150, "preconditions": {"uid": "u-1"}, "dryRun": ["All"]});
        assert_eq!(delete_options(&body), Some(expected));
        assert_eq!(delete_options(b"k8s\0\x12\x00"), Some(json!({})));
        assert_eq!(delete_options(b"{}"), None);
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
            let _ = delete_options(&[MARK, &bytes].concat());
        }
    }
}
