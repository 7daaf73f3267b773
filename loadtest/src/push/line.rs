//! One socket at little cost: the handshake, and frames as they come off the wire. A gateway is measured with ten thousand of
//! these on the same machine, so they do no more than a client must. It judges nothing.

use anyhow::{Context, Result, bail, ensure};
use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Room for a few frames.
const READ_LEN: usize = 2 * 1024;
/// Longest head of an answer to a handshake.
const HEAD_MAX: usize = 8 * 1024;
/// A pong without content, masked with zeros as a client's frames must be.
const PONG: [u8; 6] = [0x8a, 0x80, 0, 0, 0, 0];

/// What came in.
#[derive(Debug, PartialEq, Eq)]
pub enum Frame {
    /// A text.
    Text(Bytes),
    /// A question whether we are there.
    Ping,
    /// The end, with its code.
    Close(Option<u16>),
}

/// An open connection that carries frames.
pub struct Line {
    stream: TcpStream,
    buffer: BytesMut,
}

impl Line {
    /// Connects without a handshake: frames follow at once.
    ///
    /// # Errors
    /// When nobody listens.
    pub async fn plain(address: &str) -> Result<Self> {
        let stream = TcpStream::connect(address).await.with_context(|| format!("connect to {address}"))?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, buffer: BytesMut::with_capacity(READ_LEN) })
    }

    /// Opens a live connection, to go on after `position` if there is one.
    ///
    /// # Errors
    /// When the gateway refuses it.
    pub async fn open(base: &str, token: &str, position: Option<&str>) -> Result<Self> {
        let address = base.strip_prefix("http://").context("an address with http://")?;
        let mut line = Self::plain(address).await?;
        let place = position.map(|position| format!("?position={position}")).unwrap_or_default();
        let request = format!(
            "GET /api/v1/live/ws{place} HTTP/1.1\r\nHost: {address}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\nAuthorization: Bearer {token}\r\n\r\n"
        );
        line.stream.write_all(request.as_bytes()).await?;
        line.answered().await?;
        Ok(line)
    }

    async fn answered(&mut self) -> Result<()> {
        loop {
            if let Some(end) = self.buffer.windows(4).position(|four| four == b"\r\n\r\n") {
                let head = self.buffer.split_to(end + 4);
                ensure!(
                    head.starts_with(b"HTTP/1.1 101"),
                    "{}{}",
                    String::from_utf8_lossy(&head),
                    String::from_utf8_lossy(&self.buffer)
                );
                return Ok(());
            }
            ensure!(self.buffer.len() < HEAD_MAX, "an answer without an end");
            self.read().await?;
        }
    }

    async fn read(&mut self) -> Result<()> {
        self.buffer.reserve(READ_LEN / 2);
        ensure!(self.stream.read_buf(&mut self.buffer).await? > 0, "the connection ended");
        Ok(())
    }

    /// The next frame.
    ///
    /// # Errors
    /// When the connection ends.
    pub async fn next(&mut self) -> Result<Frame> {
        loop {
            if let Some(frame) = cut(&mut self.buffer)? {
                return Ok(frame);
            }
            self.read().await?;
        }
    }

    /// Answers a ping.
    ///
    /// # Errors
    /// When the connection is gone.
    pub async fn pong(&mut self) -> Result<()> {
        Ok(self.stream.write_all(&PONG).await?)
    }
}

/// Takes a whole frame off the front, if there is one.
fn cut(buffer: &mut BytesMut) -> Result<Option<Frame>> {
    let (Some(&first), Some(&second)) = (buffer.first(), buffer.get(1)) else { return Ok(None) };
    ensure!(first & 0x80 != 0 && second & 0x80 == 0, "a frame in parts, or one that is masked");
    let (head, length) = match second {
        126 if buffer.len() >= 4 => (4, usize::from(u16::from_be_bytes([buffer[2], buffer[3]]))),
        126 => return Ok(None),
        127 => bail!("a frame of more than 64 kB"),
        short => (2, usize::from(short)),
    };
    if buffer.len() < head + length {
        return Ok(None);
    }
    buffer.advance(head);
    let body = buffer.split_to(length).freeze();
    Ok(Some(match first & 0x0f {
        0x1 => Frame::Text(body),
        0x8 => Frame::Close(body.get(..2).map(|code| u16::from_be_bytes([code[0], code[1]]))),
        0x9 => Frame::Ping,
        code => bail!("a frame of type {code}"),
    }))
}

/// A text as a server sends it.
pub fn text_frame(text: &str) -> Result<Vec<u8>> {
    let length = u16::try_from(text.len()).context("a text of more than 64 kB")?;
    let mut frame = vec![0x81];
    match u8::try_from(length) {
        Ok(short) if short < 126 => frame.push(short),
        _ => {
            frame.push(126);
            frame.extend(length.to_be_bytes());
        }
    }
    frame.extend(text.as_bytes());
    Ok(frame)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_cut_wherever_reads_end() {
        let long = "x".repeat(300);
        let mut wire = text_frame("short").unwrap();
        wire.extend(text_frame(&long).unwrap());
        wire.extend([0x89, 0, 0x88, 2, 0x03, 0xf4]);
        let (mut buffer, mut frames) = (BytesMut::new(), Vec::new());
        for byte in wire {
            buffer.extend([byte]);
            frames.extend(cut(&mut buffer).unwrap());
        }
        let text = |text: &str| Frame::Text(Bytes::from(text.to_owned()));
        assert_eq!(frames, [text("short"), text(&long), Frame::Ping, Frame::Close(Some(1012))]);
    }

    #[test]
    fn what_no_server_sends_is_refused() {
        for wire in [&[0x01, 0][..], &[0x81, 0x80], &[0x82, 0], &[0x81, 127]] {
            assert!(cut(&mut BytesMut::from(wire)).is_err(), "{wire:?}");
        }
    }
}
