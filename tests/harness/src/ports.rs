//! Free loopback ports.

use std::net::TcpListener;

/// A loopback port that was free a moment ago.
///
/// # Errors
/// When the machine has none left.
pub fn free() -> std::io::Result<u16> {
    Ok(TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port())
}
