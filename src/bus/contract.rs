//! Everything a bus promises, one named function per promise. Each backend runs all of it against its real server.
//!
//! A backend hands in a [`Fixture`]: two gateway replicas on the same streams, and ways to lose what streams lose.
//! Every promise makes its own users, so suites may share a server. A broken promise panics with what was seen. Not
//! here: what only one backend can do (its own tests).

#[cfg(test)]
mod canary;
mod following;
mod keeping;
mod probe;
mod publishing;
mod replaying;

use std::sync::Arc;

use async_trait::async_trait;

pub use probe::{Collector, progress, terminal, user};

use super::{Feed, Publisher};
use crate::task::UserId;

/// A backend under test.
#[async_trait]
pub trait Fixture: Send + Sync {
    /// A writer. Calls may return the same one.
    fn publisher(&self) -> Arc<dyn Publisher>;

    /// The feed of gateway replica 0 or 1, on the same streams. The same one for the same number.
    fn feed(&self, replica: usize) -> Arc<dyn Feed>;

    /// Deletes everything the backend keeps for `user`, as if the server had lost it, unknown to publisher and feeds.
    async fn wipe(&self, user: &UserId);

    /// Cuts `user`'s stream to its newest `keep` entries, unknown to publisher and feeds.
    async fn trim(&self, user: &UserId, keep: usize);

    /// Entries that `replica` was given and that no receipt has acknowledged yet, where the server can tell.
    async fn unacked(&self, _user: &UserId, _replica: usize) -> Option<u64> {
        None
    }
}

/// Runs every promise.
///
/// # Panics
/// When one is broken.
pub async fn holds(fixture: &dyn Fixture) {
    publishing::ids_grow_and_order_is_kept(fixture).await;
    publishing::the_same_event_is_added_once(fixture).await;
    publishing::an_older_number_of_the_same_attempt_is_a_repeat(fixture).await;
    publishing::an_older_attempt_is_fenced(fixture).await;
    publishing::a_newer_attempt_shuts_the_old_one_out(fixture).await;
    publishing::racing_publishes_of_one_event_add_it_once(fixture).await;
    publishing::tasks_are_fenced_apart(fixture).await;
    publishing::a_refused_event_is_seen_by_nobody(fixture).await;
    publishing::live_gives_the_newest_event_without_items(fixture).await;
    publishing::live_knows_only_what_was_published(fixture).await;

    keeping::the_next_attempt_is_given_what_was_told(fixture).await;
    keeping::what_is_recorded_is_not_given(fixture).await;
    keeping::only_older_attempts_are_given(fixture).await;
    keeping::a_fenced_attempt_adds_no_result(fixture).await;
    keeping::results_of_tasks_and_users_are_apart(fixture).await;
    keeping::of_a_task_that_is_over_nothing_is_kept(fixture).await;
    keeping::a_long_outage_of_the_record_fits(fixture).await;

    replaying::a_new_user_has_an_empty_stream(fixture).await;
    replaying::every_replica_names_the_same_head(fixture).await;
    replaying::pages_repeat_nothing_and_skip_nothing(fixture).await;
    replaying::an_exactly_full_page_says_whether_it_was_the_last(fixture).await;
    replaying::replay_at_the_head_is_empty(fixture).await;
    replaying::replay_continues_from_every_entry(fixture).await;
    replaying::entries_say_what_was_published(fixture).await;
    replaying::a_large_event_passes_whole(fixture).await;
    replaying::another_epoch_is_lost(fixture).await;
    replaying::an_unknown_users_position_is_lost(fixture).await;
    replaying::a_trimmed_position_is_lost_and_kept_ones_go_on(fixture).await;
    replaying::a_position_ahead_of_the_stream_is_lost(fixture).await;
    replaying::a_wiped_stream_has_another_epoch(fixture).await;

    following::everything_after_a_follow_arrives_on_both_replicas(fixture).await;
    following::delivery_and_replay_agree(fixture).await;
    following::a_burst_arrives_complete(fixture).await;
    following::users_are_apart(fixture).await;
    following::odd_names_are_users_like_any_other(fixture).await;
    following::writers_of_different_tasks_interleave_without_loss(fixture).await;
    following::follow_then_replay_leaves_no_gap(fixture).await;
    following::a_dropped_follow_ends_and_a_new_one_starts_afresh(fixture).await;
    following::one_replica_leaving_does_not_disturb_the_other(fixture).await;
    following::a_follow_before_the_first_event_is_enough(fixture).await;
    following::many_users_are_followed_at_once(fixture).await;
    following::a_wipe_is_told_and_later_entries_flow(fixture).await;
    following::dropping_receipts_acknowledges(fixture).await;
    following::a_feed_that_delivers_is_ready(fixture).await;
}
