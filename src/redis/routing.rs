//! Which server a command belongs to: the key in it, the slot of a key, and what a redirection says. Pure.

use redis::{Arg, Cmd, RedisError};

use super::topology::Address;

/// Slots that the keys of a Cluster are spread over.
pub(super) const SLOTS: u16 = 16_384;

/// The first key of a command, of those that are sent here. Keys of one command share a slot.
pub(super) fn key(cmd: &Cmd) -> Option<&[u8]> {
    let word = |index: usize| match cmd.args_iter().nth(index) {
        Some(Arg::Simple(word)) => Some(word),
        _ => None,
    };
    match word(0)? {
        // FCALL function, number of keys, key ...
        b"FCALL" => word(3),
        // XGROUP CREATE key ...
        b"XGROUP" | b"XINFO" => word(2),
        b"XREADGROUP" => {
            let streams = cmd.args_iter().position(|arg| matches!(arg, Arg::Simple(b"STREAMS")))?;
            word(streams + 1)
        }
        _ => word(1),
    }
}

/// The slot of a key: that of the text between the first braces, if there is one.
pub(super) fn slot(key: &[u8]) -> u16 {
    let tag = || {
        let open = key.iter().position(|byte| *byte == b'{')?;
        let len = key[open + 1..].iter().position(|byte| *byte == b'}')?;
        (len > 0).then(|| &key[open + 1..open + 1 + len])
    };
    crc16(tag().unwrap_or(key)) % SLOTS
}

/// CRC-16 in the variant of XMODEM, as Cluster has it.
fn crc16(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0, |crc: u16, byte| {
        (0..8).fold(crc ^ (u16::from(*byte) << 8), |crc, _| {
            if crc & 0x8000 == 0 { crc << 1 } else { (crc << 1) ^ 0x1021 }
        })
    })
}

/// Where a command should be sent instead.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Redirect {
    /// Its slot has moved there for good.
    Moved(Address),
    /// Its slot is on its way there, and its keys have gone ahead: ask there, this once.
    Ask(Address),
    /// Some of its keys have gone ahead: again, in a moment.
    Again,
}

/// The redirection that an error is. `asked` is the host that gave it: Redis leaves out a host that it does not know.
pub(super) fn redirect(error: &RedisError, asked: &Address) -> Option<Redirect> {
    let code = error.code()?;
    let target = || {
        let mut target = Address::parse(error.detail()?.split_ascii_whitespace().nth(1)?)?;
        if target.host.is_empty() {
            target.host.clone_from(&asked.host);
        }
        Some(target)
    };
    match code {
        "MOVED" => target().map(Redirect::Moved),
        "ASK" => target().map(Redirect::Ask),
        "TRYAGAIN" => Some(Redirect::Again),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use redis::cmd;

    use super::*;

    #[test]
    fn slots_are_those_of_redis() {
        // Of the specification of Cluster, and of `CLUSTER KEYSLOT`.
        assert_eq!(crc16(b"123456789"), 0x31C3);
        for (key, expected) in [
            ("foo", 12_182),
            ("mp:dispatch", slot(b"mp:dispatch")),
            ("{user1000}.following", slot(b"user1000")),
        ] {
            assert_eq!(slot(key.as_bytes()), expected, "{key}");
        }
        assert_eq!(slot(b"foo{}{bar}"), crc16(b"foo{}{bar}") % SLOTS, "an empty tag is none");
        assert_eq!(slot(b"foo{{bar}}zap"), slot(b"{bar"));
    }

    #[test]
    fn the_key_is_found_in_every_command_that_is_sent() {
        let cmd = |words: &str| {
            let mut words = words.split(' ');
            let mut cmd = cmd(words.next().unwrap());
            words.for_each(|word| {
                cmd.arg(word);
            });
            cmd
        };
        for words in [
            "FCALL mp2_publish 4 KEY b c d x",
            "XGROUP CREATE KEY g 0 MKSTREAM",
            "XGROUP SETID KEY g 0",
            "XREADGROUP GROUP g c COUNT 10 BLOCK 5 STREAMS KEY other > >",
            "XADD KEY * t x",
            "XACK KEY g 1-0",
            "XAUTOCLAIM KEY g c 5 0",
            "HMGET KEY epoch last",
            "SPUBLISH KEY probe",
            "SRANDMEMBER KEY 5",
            "GETDEL KEY",
        ] {
            assert_eq!(key(&cmd(words)), Some(&b"KEY"[..]), "{words}");
        }
        assert_eq!(key(&cmd("PING")), None);
    }

    #[test]
    fn redirections_are_read() {
        let asked = Address { host: "a".into(), port: 1 };
        let of = |code: &'static str, detail: &str| {
            let text = format!("-{code} {detail}\r\n");
            let value = redis::parse_redis_value(text.as_bytes()).unwrap();
            redirect(&value.extract_error().unwrap_err(), &asked)
        };
        let at = |host: &str, port| Address { host: host.into(), port };
        assert_eq!(of("MOVED", "3999 10.0.0.1:6381"), Some(Redirect::Moved(at("10.0.0.1", 6381))));
        assert_eq!(of("MOVED", "3999 :6381"), Some(Redirect::Moved(at("a", 6381))));
        assert_eq!(of("ASK", "3999 ::1:6381"), Some(Redirect::Ask(at("::1", 6381))));
        assert_eq!(of("TRYAGAIN", "Multiple keys request during rehashing of slot"), Some(Redirect::Again));
        assert_eq!(of("ERR", "no such key"), None);
    }
}
