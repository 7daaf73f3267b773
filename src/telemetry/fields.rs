//! Names of the fields in spans and log lines, so that a search finds all of them.
//!
//! `task.id` · `task.attempt` · `user.id` · `replica.id` · `cluster` · `item` · `error`
//!
//! Macros need literal names, so this is the list to copy from rather than constants to use.
