//! The `milepost` binary: parse, run, exit code.

use std::process::ExitCode;

use clap::Parser;
use milepost::cli::{self, Cli};

fn main() -> ExitCode {
    let cli = Cli::parse();
    // One TLS provider in the whole process, chosen before anything connects. It fails only when one is there already.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            return cli::exit::report(&anyhow::Error::new(error).context("start the runtime")).into();
        }
    };
    runtime.block_on(cli::run(cli)).into()
}
