//! The order in which work on entities begins. Pure: it knows tickets, and the dispatcher the work.
//!
//! Invariant: work on one entity begins in the order in which it came, one at a time; work on
//! several begins when it is the first at each of them. Whoever comes takes all its places at
//! once, so two never wait for each other.

use std::collections::{HashMap, VecDeque};

/// Endpoint and number of an entity.
pub(crate) type OrderKey = (String, u32);

/// Who works, and who waits.
#[derive(Debug, Default)]
pub(crate) struct Orders {
    /// The first of each works on it, or waits for its turn elsewhere.
    queues: HashMap<OrderKey, VecDeque<u64>>,
    /// Of those that wait: at how many entities they are not the first.
    missing: HashMap<u64, usize>,
}

impl Orders {
    /// How many entities somebody works on or waits for.
    pub(crate) fn len(&self) -> usize {
        self.queues.len()
    }

    /// Whether somebody works on it or waits for it.
    pub(crate) fn is_busy(&self, key: &OrderKey) -> bool {
        self.queues.contains_key(key)
    }

    /// Whether there is room for work on these, of which no two may be the same: at most `max`
    /// entities at a time.
    pub(crate) fn has_room(&self, keys: &[OrderKey], max: usize) -> bool {
        let new = keys.iter().filter(|key| !self.queues.contains_key(*key)).count();
        new == 0 || self.len() + new <= max
    }

    /// Gives a ticket its places. Whether its work may begin now.
    pub(crate) fn enter(&mut self, ticket: u64, keys: &[OrderKey]) -> bool {
        let mut missing = 0;
        for key in keys {
            let queue = self.queues.entry(key.clone()).or_default();
            queue.push_back(ticket);
            missing += usize::from(queue.len() > 1);
        }
        if missing > 0 {
            self.missing.insert(ticket, missing);
        }
        missing == 0
    }

    /// Takes the places back of work that has ended. Answers the tickets whose work may begin now.
    pub(crate) fn leave(&mut self, keys: &[OrderKey]) -> Vec<u64> {
        let mut ready = Vec::new();
        for key in keys {
            let Some(queue) = self.queues.get_mut(key) else { continue };
            queue.pop_front();
            let Some(next) = queue.front() else {
                self.queues.remove(key);
                continue;
            };
            if let Some(missing) = self.missing.get_mut(next) {
                *missing -= 1;
                if *missing == 0 {
                    self.missing.remove(next);
                    ready.push(*next);
                }
            }
        }
        ready
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn keys(numbers: &[u32]) -> Vec<OrderKey> {
        numbers.iter().map(|&number| ("game".to_owned(), number)).collect()
    }

    #[test]
    fn one_at_a_time_in_the_order_of_arrival() {
        let mut orders = Orders::default();
        assert!(orders.enter(1, &keys(&[1])));
        assert!(!orders.enter(2, &keys(&[1, 2, 3])));
        assert!(!orders.enter(3, &keys(&[3])), "it came after one that waits");
        assert!(orders.enter(4, &keys(&[4])));
        assert_eq!(orders.leave(&keys(&[1])), [2]);
        assert_eq!(orders.leave(&keys(&[1, 2, 3])), [3]);
        assert!(orders.leave(&keys(&[3])).is_empty());
        assert!(orders.leave(&keys(&[4])).is_empty());
        assert_eq!((orders.len(), orders.missing.len()), (0, 0));
    }

    #[test]
    fn room_is_bounded() {
        let mut orders = Orders::default();
        assert!(!orders.has_room(&keys(&[1, 2, 3]), 2));
        assert!(orders.enter(1, &keys(&[1])));
        assert!(orders.has_room(&keys(&[1]), 1));
        assert!(!orders.has_room(&keys(&[2]), 1));
        assert!(orders.has_room(&keys(&[1, 2]), 2));
        assert!(!orders.has_room(&keys(&[2, 3]), 2));
        assert!(orders.has_room(&[], 0));
    }

    proptest! {
        #[test]
        fn all_work_is_done_and_never_two_on_one(
            works in proptest::collection::vec(proptest::collection::btree_set(0_u32..4, 1..4), 1..20),
            ends in proptest::collection::vec(any::<prop::sample::Index>(), 60),
        ) {
            let works: Vec<Vec<u32>> =
                works.into_iter().map(|w| w.into_iter().collect()).collect();
            let mut orders = Orders::default();
            let mut running: Vec<usize> = Vec::new();
            let mut begun: BTreeMap<u32, Vec<usize>> = BTreeMap::new();
            let mut next = 0;
            for end in ends {
                let mut ready = Vec::new();
                if next < works.len() && (running.is_empty() || end.index(2) == 0) {
                    if orders.enter(next as u64, &keys(&works[next])) {
                        ready.push(next);
                    }
                    next += 1;
                } else if !running.is_empty() {
                    let ended = running.remove(end.index(running.len()));
                    let freed = orders.leave(&keys(&works[ended]));
                    ready.extend(freed.into_iter().map(|t| usize::try_from(t).unwrap()));
                }
                for work in ready {
                    for number in &works[work] {
                        for other in &running {
                            prop_assert!(!works[*other].contains(number));
                        }
                        begun.entry(*number).or_default().push(work);
                    }
                    running.push(work);
                }
            }
            while let Some(ended) = running.pop() {
                for ticket in orders.leave(&keys(&works[ended])) {
                    let work = usize::try_from(ticket).unwrap();
                    for number in &works[work] {
                        begun.entry(*number).or_default().push(work);
                    }
                    running.push(work);
                }
            }
            prop_assert_eq!(orders.len(), 0);
            for (number, begun) in begun {
                let came: Vec<_> =
                    (0..next).filter(|&work| works[work].contains(&number)).collect();
                prop_assert_eq!(begun, came);
            }
        }
    }
}
