//! Free loopback ports.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::net::TcpListener;
use std::ops::Range;

/// Below the ports that kernels give to outgoing connections: one of those could be taken by any client of any test before
/// its server listens.
const RANGE: Range<u16> = 12_000..32_000;
/// Ports that are tried.
const TRIES: u32 = 1_000;

/// A loopback port that was free a moment ago, chosen at random so that tests side by side do not choose the same.
///
/// # Errors
/// When the machine has none left.
pub fn free() -> std::io::Result<u16> {
    let mut taken = std::io::Error::other("no port was tried");
    for _ in 0..TRIES {
        let random = RandomState::new().build_hasher().finish();
        let port = RANGE.start + u16::try_from(random % u64::from(RANGE.end - RANGE.start)).unwrap_or(0);
        match TcpListener::bind(("127.0.0.1", port)) {
            Ok(_) => return Ok(port),
            Err(error) => taken = error,
        }
    }
    Err(taken)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_free_and_no_client_gets_them() {
        let ports: Vec<u16> = (0..50).map(|_| free().unwrap()).collect();
        assert!(ports.iter().all(|port| RANGE.contains(port)));
        assert!(ports.windows(2).any(|pair| pair[0] != pair[1]));
        TcpListener::bind(("127.0.0.1", ports[0])).unwrap();
    }
}
