//! The harness itself: servers start, answer, and die with their handle.

use milepost_harness::{Postgres, Redis};

#[test]
fn servers_start_answer_and_end() {
    let mut redis = Redis::start().unwrap();
    redis.command(&["SET", "a", "1"]).unwrap();
    redis.process().kill().unwrap();
    redis.run().unwrap();
    assert!(redis.command(&["GET", "a"]).unwrap().starts_with("$-1"));
    let postgres = Postgres::start().unwrap();
    let url = postgres.database().unwrap();
    let name = url.rsplit('/').next().unwrap();
    assert_eq!(postgres.sql(name, "SELECT 1 + 1").unwrap(), "2");
}
