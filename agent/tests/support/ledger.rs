//! What children said before they were killed, and what the store must hold then.
//!
//! Invariant: a reservation is known by its tag, which is the name of its ports; whatever else is
//! said of it can only be that it is being freed, and then that it is free.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use goperation_agent::ports::{Protocol, Reserved, Wish};

/// TCP or UDP, and a number.
pub(crate) type Slot = (Protocol, u16);

/// Names one reservation.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Tag(u64);

impl Tag {
    pub(crate) fn new(number: u64) -> Self {
        Self(number)
    }

    /// Which of four kinds of reservation it is.
    pub(crate) fn kind(&self) -> u64 {
        self.0 % 4
    }

    /// The tag of a port's name: several of one wish are numbered.
    fn of_name(name: &str) -> Self {
        let digits = name.split('-').next().unwrap();
        Self(u64::from_str_radix(digits, 16).unwrap())
    }
}

impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// One thing that a child said.
#[derive(Debug)]
pub(crate) enum Line {
    Reserved(Tag, BTreeSet<Slot>),
    /// Said before it is asked for.
    Freeing(Tag),
    Freed(Tag),
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Reserved(tag, slots) => {
                write!(f, "reserved {tag}")?;
                slots.iter().try_for_each(|(protocol, port)| write!(f, " {protocol}/{port}"))
            }
            Self::Freeing(tag) => write!(f, "freeing {tag}"),
            Self::Freed(tag) => write!(f, "freed {tag}"),
        }
    }
}

impl Line {
    /// A line of a child; nothing when it is one of the test runner's.
    pub(crate) fn of_text(text: &str) -> Option<Self> {
        let (verb, rest) = text.split_once(' ')?;
        let mut words = rest.split(' ');
        let mut tag = || Tag::of_name(words.next().unwrap());
        match verb {
            "reserved" => {
                let tag = tag();
                Some(Self::Reserved(tag, words.map(slot).collect()))
            }
            "freeing" => Some(Self::Freeing(tag())),
            "freed" => Some(Self::Freed(tag())),
            _ => None,
        }
    }
}

fn slot(text: &str) -> Slot {
    let (protocol, port) = text.split_once('/').unwrap();
    let protocol = if protocol == "tcp" { Protocol::Tcp } else { Protocol::Udp };
    (protocol, port.parse().unwrap())
}

pub(crate) fn slots(rows: &[Reserved]) -> BTreeSet<Slot> {
    rows.iter().flat_map(Reserved::slots).collect()
}

/// Reservations by their tags.
pub(crate) fn by_tag(rows: &[Reserved]) -> BTreeMap<Tag, Vec<Reserved>> {
    let mut by_tag: BTreeMap<Tag, Vec<Reserved>> = BTreeMap::new();
    for row in rows {
        by_tag.entry(Tag::of_name(&row.name)).or_default().push(row.clone());
    }
    by_tag
}

/// The ledger of one folder.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    /// Acknowledged, and nobody has begun to free it.
    held: BTreeMap<Tag, BTreeSet<Slot>>,
    /// Whose every slot is, of those that are held.
    owners: BTreeMap<Slot, Tag>,
    /// The free was begun and not acknowledged.
    freeing: BTreeSet<Tag>,
    freed: BTreeSet<Tag>,
    acknowledged: u64,
}

impl Ledger {
    /// Notes what a child said. Lines come in the order in which they were said, and a port that
    /// is free again was said to be freed before: so no slot may be held twice.
    pub(crate) fn note(&mut self, line: Line) {
        match line {
            Line::Reserved(tag, slots) => {
                for slot in &slots {
                    let other = self.owners.insert(*slot, tag.clone());
                    assert_eq!(other, None, "{slot:?} was given to {tag} too");
                }
                self.held.insert(tag, slots);
                self.acknowledged += 1;
            }
            Line::Freeing(tag) => {
                for slot in self.held.remove(&tag).unwrap() {
                    self.owners.remove(&slot);
                }
                self.freeing.insert(tag);
            }
            Line::Freed(tag) => {
                assert!(self.freeing.remove(&tag));
                self.freed.insert(tag);
                self.acknowledged += 1;
            }
        }
    }

    /// Answers that were noted.
    pub(crate) fn acknowledged(&self) -> u64 {
        self.acknowledged
    }

    /// Compares with the store: what is lost of what was acknowledged. Half a reservation, or a
    /// slot of two, is never forgiven.
    pub(crate) fn check(
        &self,
        found: &[Reserved],
        wishes: impl Fn(&Tag) -> Vec<Wish>,
    ) -> Vec<String> {
        let by_tag = by_tag(found);
        let mut owners: BTreeMap<Slot, &Tag> = BTreeMap::new();
        for (tag, rows) in &by_tag {
            let entities: BTreeSet<u32> = rows.iter().map(|row| row.entity.number).collect();
            assert_eq!(entities.len(), 1, "{tag} has several owners: {rows:?}");
            for slot in slots(rows) {
                assert_eq!(owners.insert(slot, tag), None, "{slot:?} has two owners");
            }
            assert!(is_whole(rows, &wishes(tag)), "half a reservation: {tag} has {rows:?}");
        }
        let mut lost = Vec::new();
        for (tag, slots) in &self.held {
            match by_tag.get(tag) {
                None => lost.push(format!("{tag} is gone")),
                Some(rows) => assert_eq!(&self::slots(rows), slots, "{tag}"),
            }
        }
        lost.extend(
            by_tag.keys().filter(|t| self.freed.contains(t)).map(|t| format!("{t} is back")),
        );
        lost
    }

    /// Goes on from what is in the store: the next child does.
    pub(crate) fn take_up(&mut self, found: &[Reserved]) {
        let held = by_tag(found).into_iter().map(|(tag, rows)| (tag, slots(&rows)));
        self.held = held.collect();
        let owners = self.held.iter().flat_map(|(t, slots)| slots.iter().map(|s| (*s, t.clone())));
        self.owners = owners.collect();
        self.freeing.clear();
        self.freed.clear();
    }
}

/// Whether the slots are as many of each protocol as the wishes ask for.
fn is_whole(rows: &[Reserved], wishes: &[Wish]) -> bool {
    [Protocol::Tcp, Protocol::Udp].iter().all(|protocol| {
        let has = slots(rows).iter().filter(|slot| slot.0 == *protocol).count();
        let of = |wish: &&Wish| wish.protocol.singles().contains(protocol);
        let asked: u32 = wishes.iter().filter(of).map(Wish::wanted).sum();
        has == asked as usize
    })
}
