//! One suite that every transport must pass: the embedded one and RabbitMQ.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test stops at the first thing that fails"
)]

#[path = "contract/bed.rs"]
mod bed;
#[path = "contract/calls.rs"]
mod calls;
#[path = "contract/casts.rs"]
mod casts;
#[path = "contract/restart.rs"]
mod restart;
#[path = "contract/topology.rs"]
mod topology;

/// Runs each test once on each transport.
macro_rules! on_every_transport {
    ($($module:ident :: $test:ident),* $(,)?) => {
        mod local {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $test() {
                let bed = super::bed::local().await;
                super::$module::$test(&bed).await;
                bed.close().await;
            })*
        }

        mod rabbit {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $test() {
                let bed = super::bed::rabbit().await;
                super::$module::$test(&bed).await;
                bed.close().await;
            })*
        }
    };
}

on_every_transport! {
    calls::a_call_is_taken_only_while_the_agent_is_there,
    calls::a_call_is_not_held_back_by_unacknowledged_casts,
    calls::replies_reach_the_bridge_that_waits,
    casts::a_cast_waits_for_a_known_but_absent_agent,
    casts::every_field_of_a_message_arrives,
    casts::the_order_of_a_queue_is_kept,
    casts::concurrent_publishers_lose_nothing,
    casts::the_prefetch_bounds_what_is_unacknowledged,
    casts::what_a_dropped_subscription_had_comes_again,
    casts::what_is_given_back_comes_again,
    casts::a_shared_queue_serves_each_in_turn,
    casts::a_retry_comes_back_after_its_delay_and_delays_no_other,
    casts::a_retry_whose_queue_has_gone_is_a_dead_letter,
    casts::what_nobody_started_in_time_is_a_dead_letter,
    casts::a_dead_letter_has_its_reason,
    casts::a_message_may_be_too_large,
    topology::nothing_takes_what_nobody_made_a_queue_for,
    topology::a_broadcast_reaches_all_agents_or_those_with_the_endpoint,
    topology::former_endpoints_are_unbound,
    topology::a_removed_agent_leaves_its_messages_as_dead_letters,
    topology::a_notification_waits_for_its_receiver,
    topology::a_full_notify_queue_says_so,
    topology::queues_tell_their_depth_and_consumers,
}
