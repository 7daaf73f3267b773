//! The suite that every backend of the store runs: one function per promise.
//!
//! A promise gets an empty store and panics when it is broken. Leases are real time here, so waits are for a
//! condition under a generous deadline, and nothing is assumed to be quick. Not here: what only one backend promises,
//! such as surviving a restart.
#![expect(clippy::unwrap_used, reason = "a suite of assertions: a panic is its verdict")]

mod auditing;
mod claiming;
mod controlling;
mod halting;
mod kit;
mod recording;
mod retrying;
mod strategies;
mod submitting;
mod upkeep;

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::LocalBoxFuture;

use super::Store;

/// A backend under test.
pub type AnyStore = Arc<dyn Store>;

/// A promise: its name, and the function that holds a store to it.
pub type Promise = (&'static str, fn(AnyStore) -> LocalBoxFuture<'static, ()>);

/// No promise takes longer than this, unless it hangs.
const PATIENCE: Duration = Duration::from_secs(120);

macro_rules! promises {
    ($($module:ident :: $name:ident,)*) => {
        /// Every promise.
        pub const PROMISES: &[Promise] =
            &[$((stringify!($name), |store| Box::pin($module::$name(store)))),*];
    };
}

promises! {
    submitting::a_task_comes_back_as_it_was_submitted,
    submitting::a_key_returns_the_task_that_it_made,
    submitting::a_key_with_another_body_is_refused,
    submitting::a_key_belongs_to_its_user,
    submitting::racing_submits_with_one_key_make_one_task,
    submitting::a_user_has_so_many_open_tasks_and_no_more,
    submitting::racing_submits_pass_the_limit_by_no_more_than_they_are,
    submitting::an_unknown_task_is_nothing,
    submitting::lists_are_newest_first_and_keep_to_their_filters,
    submitting::pages_of_tasks_are_stable_while_tasks_arrive,
    submitting::pages_of_items_meet_every_item_once,
    submitting::items_are_found_by_state,
    submitting::a_snapshot_has_all_that_is_open_and_the_newest_that_is_over,
    submitting::the_largest_task_is_kept_whole,
    claiming::an_empty_store_has_nothing_to_claim,
    claiming::a_claim_holds_the_task_under_a_new_attempt,
    claiming::the_owner_with_the_fewest_held_tasks_goes_first,
    claiming::the_owner_served_longest_ago_goes_first,
    claiming::priority_then_age_decide_among_tasks_of_an_owner,
    claiming::a_full_cluster_holds_up_nobody_else,
    claiming::a_cluster_limit_holds_under_parallel_claims,
    claiming::parallel_claims_never_share_a_task,
    claiming::a_lapsed_lease_is_taken_over_with_what_is_pending,
    claiming::a_lapsed_task_does_not_block_its_own_full_cluster,
    claiming::a_renewed_lease_is_not_taken_over,
    claiming::a_renewal_tells_of_each_task_in_order,
    claiming::a_hand_over_uses_up_no_try,
    recording::a_result_is_recorded_once_and_stays,
    recording::counts_are_the_sum_of_results,
    recording::a_whole_batch_of_results_is_recorded,
    recording::a_stale_attempt_writes_nothing,
    recording::an_unknown_task_is_fenced,
    recording::an_index_that_the_task_does_not_have_adds_nothing,
    recording::a_paused_task_takes_the_results_of_what_was_in_flight,
    recording::a_task_ends_once_with_its_event_in_the_outbox,
    recording::finishing_again_returns_the_same_row,
    recording::a_task_with_pending_items_is_not_finished,
    recording::racing_records_of_the_same_items_count_once,
    controlling::a_cancel_of_a_queued_task_ends_it,
    controlling::a_cancel_of_a_paused_task_shuts_its_worker_out,
    controlling::a_cancel_of_a_running_task_is_left_to_its_holder,
    controlling::a_cancel_survives_a_takeover,
    controlling::a_cancel_of_a_finished_task_is_refused,
    controlling::a_paused_task_waits_until_it_is_resumed,
    controlling::pausing_often_uses_up_no_tries,
    controlling::racing_cancels_end_a_task_once,
    controlling::a_change_rings_for_the_worker_that_holds_the_task,
    halting::a_used_up_budget_pauses_a_task_and_says_why,
    halting::a_resume_begins_a_budget_that_knows_all_failures_of_before,
    halting::a_task_that_is_called_off_ends_as_failed,
    halting::what_is_called_off_stays_so_when_its_worker_dies,
    halting::what_a_user_did_first_stays,
    halting::a_change_of_concurrency_reaches_the_holder,
    strategies::a_strategy_comes_back_as_it_was_submitted,
    strategies::a_task_without_a_strategy_has_none,
    strategies::the_order_of_items_is_kept_once,
    strategies::a_task_rests_until_its_time_and_no_longer,
    strategies::a_resting_task_is_cancelled_at_once_and_a_lapsed_one_taken_over,
    strategies::a_gate_pauses_a_task_and_opens_the_wave_behind_it,
    strategies::a_node_is_held_by_one_task_at_a_time,
    strategies::a_node_is_free_with_the_result_of_its_item,
    strategies::a_task_that_leaves_its_worker_holds_no_node,
    strategies::a_node_is_free_when_the_lease_of_its_holder_is_over,
    strategies::racing_tasks_share_no_node,
    retrying::a_retry_takes_what_failed_and_is_otherwise_the_same,
    retrying::a_retry_may_take_more_and_do_it_otherwise,
    retrying::what_is_not_over_or_has_nothing_left_is_not_retried,
    retrying::retries_add_up_by_the_newest_result_of_each_item,
    retrying::what_was_given_up_is_retried,
    retrying::racing_retries_run_no_item_twice,
    retrying::a_repeated_retry_with_its_key_is_the_first_one,
    retrying::a_family_of_retries_is_bounded_and_outlives_its_first_task,
    auditing::a_submit_is_told_with_who_what_why_and_from_where,
    auditing::a_repeated_submit_is_told_once,
    auditing::a_retry_is_told_with_what_it_retries,
    auditing::orders_are_told_once_with_what_became_of_the_task,
    auditing::each_node_has_one_outcome_under_its_attempt_and_worker,
    auditing::the_history_of_a_node_is_its_tasks_newest_first,
    auditing::a_refusal_is_told,
    auditing::filters_are_kept_and_pages_meet_every_row_once,
    auditing::what_is_pruned_is_told_until_its_own_time_is_over,
    upkeep::what_may_be_claimed_is_listed_oldest_first,
    upkeep::a_task_without_tries_left_is_given_up,
    upkeep::a_cancelling_task_without_tries_left_ends_as_cancelled,
    upkeep::the_outbox_is_in_order_until_published,
    upkeep::pruning_forgets_what_is_long_over_and_nothing_else,
    upkeep::pruning_frees_the_key,
    upkeep::what_is_held_without_news_is_stalled,
    upkeep::the_backlog_counts_what_waits,
    upkeep::the_lead_is_kept_and_given_back,
}

/// Holds a backend to every promise, each on an empty store from `fresh`.
///
/// # Panics
/// When a promise is broken.
pub async fn holds(fresh: impl AsyncFn() -> AnyStore) {
    for (name, promise) in PROMISES {
        tracing::info!(name, "holding the store to a promise");
        let kept = tokio::time::timeout(PATIENCE, promise(fresh().await)).await;
        assert!(kept.is_ok(), "{name} took longer than {PATIENCE:?}");
    }
}
