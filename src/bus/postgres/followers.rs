//! Who is followed from where, and whose bell rang. Pure; the reading task asks and settles.
//!
//! The rung users are a set, not a queue: a user who rings a thousand times while a read is under way is read once.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::rows::Found;
use crate::bus::{Entry, Inbox, Loss};
use crate::task::{Position, UserId};

/// Where a reader stands. `None` when the user had no stream: then it begins with the first entry of the next one.
pub(super) type Cursor = Option<Position>;

/// All users that this replica follows.
#[derive(Default)]
pub(super) struct Followers {
    users: HashMap<UserId, Follower>,
    rung: HashSet<UserId>,
    follows: u64,
}

struct Follower {
    number: u64,
    inbox: Arc<dyn Inbox>,
    cursor: Cursor,
}

/// A cursor to read from, on behalf of one follow.
#[derive(Debug, Clone)]
pub(super) struct Asked {
    pub(super) user: UserId,
    pub(super) cursor: Cursor,
    number: u64,
}

/// What an inbox is to be told, outside of any lock.
pub(super) struct Delivery {
    user: UserId,
    inbox: Arc<dyn Inbox>,
    lost: Option<Loss>,
    entries: Vec<Entry>,
}

impl Followers {
    /// Follows from a cursor, and rings: what came since the cursor was taken is due. Returns the number of the follow.
    pub(super) fn follow(&mut self, user: &UserId, inbox: Arc<dyn Inbox>, cursor: Cursor) -> u64 {
        self.follows += 1;
        self.users.insert(user.clone(), Follower { number: self.follows, inbox, cursor });
        self.rung.insert(user.clone());
        self.follows
    }

    /// Ends a follow, unless another one has taken its place.
    pub(super) fn unfollow(&mut self, user: &UserId, number: u64) {
        if self.users.get(user).is_some_and(|follower| follower.number == number) {
            self.users.remove(user);
            self.rung.remove(user);
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.users.is_empty()
    }

    /// Notes that a user has news. Returns whether anybody here cares.
    pub(super) fn ring(&mut self, user: &UserId) -> bool {
        let followed = self.users.contains_key(user);
        if followed {
            self.rung.insert(user.clone());
        }
        followed
    }

    /// Notes that every user may have news.
    pub(super) fn ring_all(&mut self) {
        self.rung.extend(self.users.keys().cloned());
    }

    /// Takes up to `max` rung users to read. Whoever fails to read them rings them again.
    pub(super) fn take_rung(&mut self, max: usize) -> Vec<Asked> {
        let taken: Vec<UserId> = self.rung.iter().take(max).cloned().collect();
        for user in &taken {
            self.rung.remove(user);
        }
        taken.into_iter().filter_map(|user| self.ask(user)).collect()
    }

    /// The cursors of all users.
    pub(super) fn cursors(&self) -> Vec<Asked> {
        self.users.keys().filter_map(|user| self.ask(user.clone())).collect()
    }

    /// All users.
    pub(super) fn users(&self) -> Vec<UserId> {
        self.users.keys().cloned().collect()
    }

    fn ask(&self, user: UserId) -> Option<Asked> {
        let follower = self.users.get(&user)?;
        Some(Asked { cursor: follower.cursor.clone(), number: follower.number, user })
    }

    /// Moves a cursor past what was found, rings again when more is waiting, and says what to tell the inbox.
    pub(super) fn settle(&mut self, asked: &Asked, found: Found) -> Option<Delivery> {
        let follower = self.users.get_mut(&asked.user).filter(|follower| follower.number == asked.number)?;
        let lost = found.loss(asked.cursor.as_ref());
        // A snapshot follows a loss, so what came before the present end of the stream is in it.
        follower.cursor = if lost.is_some() { found.head.clone() } else { found.end() };
        if lost.is_none() && !found.is_complete() {
            self.rung.insert(asked.user.clone());
        }
        let entries = if lost.is_some() { Vec::new() } else { found.entries };
        let inbox = Arc::clone(&follower.inbox);
        let worth_telling = lost.is_some() || !entries.is_empty();
        worth_telling.then(|| Delivery { user: asked.user.clone(), inbox, lost, entries })
    }
}

impl Asked {
    /// Whose stream, and from where.
    pub(super) fn cursor(&self) -> (&UserId, Option<&Position>) {
        (&self.user, self.cursor.as_ref())
    }
}

impl Delivery {
    pub(super) fn hand_over(self) {
        if let Some(loss) = self.lost {
            self.inbox.lost(&self.user, loss);
        } else {
            self.inbox.deliver(&self.user, self.entries);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bus::contract::{Collector, user};
    use crate::task::{EntryId, Epoch};

    fn at(id: u64) -> Position {
        Position::new(Epoch::new("now").unwrap(), EntryId::counted(id))
    }

    fn head(id: u64) -> Found {
        Found { head: Some(at(id)), entries: Vec::new() }
    }

    #[test]
    fn a_user_who_rings_often_is_read_once() {
        let (mut followers, user) = (Followers::default(), user("often"));
        followers.follow(&user, Collector::new(), Some(at(1)));
        assert!(followers.ring(&user) && followers.ring(&user));
        assert_eq!(followers.take_rung(10).len(), 1);
        assert!(followers.take_rung(10).is_empty());
    }

    #[test]
    fn strangers_do_not_ring() {
        let mut followers = Followers::default();
        assert!(!followers.ring(&user("stranger")));
        assert!(followers.take_rung(10).is_empty());
    }

    #[test]
    fn a_read_for_an_ended_follow_moves_nothing() {
        let (mut followers, user) = (Followers::default(), user("again"));
        let first = followers.follow(&user, Collector::new(), Some(at(1)));
        let asked = followers.take_rung(1).remove(0);
        followers.follow(&user, Collector::new(), Some(at(5)));
        followers.unfollow(&user, first);
        assert!(followers.settle(&asked, head(9)).is_none());
        assert_eq!(followers.take_rung(1)[0].cursor, Some(at(5)));
    }

    #[test]
    fn a_lost_stream_is_told_once() {
        let (mut followers, user, inbox) = (Followers::default(), user("lost"), Collector::new());
        followers.follow(&user, Arc::clone(&inbox) as Arc<dyn Inbox>, Some(at(1)));
        for _ in 0..2 {
            followers.ring(&user);
            let asked = followers.take_rung(1).remove(0);
            if let Some(delivery) = followers.settle(&asked, Found::default()) {
                delivery.hand_over();
            }
        }
        assert_eq!(inbox.losses(), [Loss::Epoch]);
    }
}
