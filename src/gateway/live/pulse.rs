//! The one timer of all live connections: pings, silence, and tokens that end.
//!
//! A timer per socket would cost memory and wake-ups; this one looks at every socket a few times per ping interval
//! and spreads the pings over it.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::close::Close;
use crate::gateway::hub::Socket;
use crate::gateway::{Shared, limits};

/// Looks per ping interval: pings are spread over so many moments.
const SLOTS: u32 = 20;

/// Runs until the soft stop.
pub(crate) async fn run(shared: Arc<Shared>, stop: CancellationToken) {
    let period =
        (shared.parts.live.ping_interval / SLOTS).clamp(Duration::from_millis(5), Duration::from_secs(1));
    let slots = slots(shared.parts.live.ping_interval, period);
    let mut timer = tokio::time::interval(period);
    timer.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut forget = tokio::time::interval(limits::FORGET_INTERVAL);
    let mut tick = 0_u64;
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = forget.tick() => shared.limits.forget_idle(),
            _ = timer.tick() => {
                tick = tick.wrapping_add(1);
                look(&shared, |socket| socket.id % slots == tick % slots);
            }
        }
    }
}

fn slots(interval: Duration, period: Duration) -> u64 {
    u64::try_from(interval.as_millis() / period.as_millis().max(1)).unwrap_or(1).max(1)
}

fn look(shared: &Shared, due: impl Fn(&Socket) -> bool) {
    let now_s = shared.parts.clock.now().as_second();
    for socket in shared.hub.sockets() {
        if now_s >= socket.expires_s {
            socket.outbox.close(Close::Expired);
        } else if shared.hub.silence(&socket) > shared.parts.live.idle_timeout {
            socket.outbox.close(Close::Idle);
        } else if due(&socket) {
            socket.outbox.ping();
        }
    }
}
