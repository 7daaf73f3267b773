//! The floor under a fan-out: a process that does nothing but write the same bytes to as many plain sockets.
//!
//! It is this program in a process of its own, so that its processor time can be told apart. What it is to write comes
//! over its first connection, as a length and so many bytes; after each round it says what it has used so far.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::usage::own_cpu_ns;

/// What the process is told to do.
#[derive(Debug, Clone, clap::Args)]
pub struct PlainArgs {
    /// Connections to wait for.
    sockets: usize,
}

/// Serves rounds until the one who asks is gone.
///
/// # Errors
/// When a connection breaks.
#[expect(clippy::print_stdout, reason = "the port is what the parent waits for")]
pub fn serve(args: &PlainArgs) -> Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    println!("{}", listener.local_addr()?);
    let (mut control, _) = listener.accept()?;
    let mut sockets = Vec::with_capacity(args.sockets);
    for _ in 0..args.sockets {
        let (socket, _) = listener.accept()?;
        socket.set_nodelay(true)?;
        sockets.push(socket);
    }
    control.write_all(&own_cpu_ns().to_le_bytes())?;
    while let Ok(bytes) = told(&mut control) {
        sockets.iter_mut().try_for_each(|socket| socket.write_all(&bytes))?;
        control.write_all(&own_cpu_ns().to_le_bytes())?;
    }
    Ok(())
}

fn told(control: &mut TcpStream) -> Result<Vec<u8>> {
    let mut length = [0; 4];
    control.read_exact(&mut length)?;
    let mut bytes = vec![0; usize::try_from(u32::from_le_bytes(length))?];
    control.read_exact(&mut bytes)?;
    Ok(bytes)
}

/// That process, as its parent sees it.
pub struct Plain {
    child: Child,
    /// Where it listens.
    pub address: String,
    control: tokio::net::TcpStream,
}

impl Plain {
    /// Starts it.
    ///
    /// # Errors
    /// When it does not come up.
    pub async fn start(sockets: usize) -> Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["plain-sends", &sockets.to_string()]).stdout(Stdio::piped());
        let mut child = command.spawn()?;
        let mut out = std::io::BufReader::new(child.stdout.take().context("its output")?);
        let mut address = String::new();
        std::io::BufRead::read_line(&mut out, &mut address)?;
        let address = address.trim().to_owned();
        let control = tokio::net::TcpStream::connect(&address).await?;
        Ok(Self { child, address, control })
    }

    /// Waits until all sockets are there. Returns the nanoseconds of processor time that it has used.
    ///
    /// # Errors
    /// When it is gone.
    pub async fn ready(&mut self) -> Result<u64> {
        Ok(self.control.read_u64_le().await?)
    }

    /// Has these bytes written to each socket. Returns the nanoseconds of processor time that it has used so far.
    ///
    /// # Errors
    /// When it is gone.
    pub async fn send(&mut self, bytes: &[u8]) -> Result<u64> {
        self.control.write_u32_le(u32::try_from(bytes.len())?).await?;
        self.control.write_all(bytes).await?;
        Ok(self.control.read_u64_le().await?)
    }
}

impl Drop for Plain {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
