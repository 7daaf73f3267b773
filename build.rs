//! Rebuilds the binary when a migration is added: `sqlx::migrate!` embeds the folder and cannot see new files itself.

fn main() {
    println!("cargo::rerun-if-changed=migrations");
}
