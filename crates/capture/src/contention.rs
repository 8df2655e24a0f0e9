//! Who else is in flight: writes that may touch the same document at the same time are both in doubt.
//!
//! - entered before the mark, left after the entry; meeting sets the doubt flag of both
//! - two writes meet on the same key; in the same namespace when one of them is no key; in the same database
//!   when one of them touches all of it
//! - one lock per shard of namespaces, held for the keys of one write; keys are compared by a 64-bit hash, so a
//!   clash, once in ages, puts two writes in doubt that were not
//! - bounded by `keys_max` over all namespaces: beyond it a write counts as touching its whole namespace
//!
//! Not here: order. Replies do not come in commit order, so there is none to keep (`wire-facts.md` section 0).

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use record::{Namespace, Target, Touch};

/// All writes in flight.
pub(crate) struct Table {
    shards: Vec<Mutex<HashMap<Namespace, Room>>>,
    /// Writes that touch a whole database, and how many there are: a write of one namespace looks there only when
    /// there are any.
    databases: Mutex<HashMap<String, Seats>>,
    databases_touched: AtomicUsize,
    keys: AtomicUsize,
    keys_max: usize,
    hasher: RandomState,
}

/// A write's place among those in flight, left when dropped.
pub struct Ticket {
    table: Arc<Table>,
    doubt: Doubted,
    places: Vec<Place>,
}

/// Shared between a ticket and whoever may meet it.
type Doubted = Arc<AtomicBool>;

struct Place {
    ns: Namespace,
    seat: usize,
    what: What,
}

enum What {
    Keys(Vec<u64>),
    Namespace,
    Database,
}

impl Table {
    pub(crate) fn new(keys_max: usize) -> Table {
        Table {
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
            databases: Mutex::default(),
            databases_touched: AtomicUsize::new(0),
            keys: AtomicUsize::new(0),
            keys_max,
            hasher: RandomState::new(),
        }
    }

    /// Enters a write that may touch `targets`. They meet others, not each other (but for a database and a namespace
    /// in it, which only a write that is in doubt anyway can name together).
    pub(crate) fn enter<'a>(self: &Arc<Self>, targets: impl IntoIterator<Item = &'a Target>) -> Ticket {
        let mut ticket = Ticket { table: Arc::clone(self), doubt: Doubted::default(), places: Vec::new() };
        let mut wanted: BTreeMap<&Namespace, What> = BTreeMap::new();
        for target in targets {
            let what = wanted.entry(&target.ns).or_insert_with(|| What::Keys(Vec::new()));
            match (&target.touch, &mut *what) {
                (Touch::Key(key), What::Keys(keys)) => keys.push(self.hasher.hash_one(key.canonical())),
                (Touch::Database, _) => *what = What::Database,
                (_, What::Keys(_)) => *what = What::Namespace,
                (_, What::Namespace | What::Database) => {}
            }
        }
        for (ns, what) in wanted {
            let what = self.within_bound(what);
            let seat = match &what {
                What::Database => self.enter_database(ns, &ticket.doubt),
                narrower => self.enter_namespace(ns, narrower, &ticket.doubt),
            };
            ticket.places.push(Place { ns: ns.clone(), seat, what });
        }
        ticket
    }

    fn within_bound(&self, what: What) -> What {
        let What::Keys(mut keys) = what else { return what };
        keys.sort_unstable();
        keys.dedup();
        if self.keys.fetch_add(keys.len(), Ordering::SeqCst) + keys.len() <= self.keys_max {
            return What::Keys(keys);
        }
        self.keys.fetch_sub(keys.len(), Ordering::SeqCst);
        What::Namespace
    }

    fn enter_namespace(&self, ns: &Namespace, what: &What, doubt: &Doubted) -> usize {
        let seat = {
            let mut shard = lock(self.shard(ns));
            // No entry(): it would clone the name for every write.
            match shard.get_mut(ns) {
                Some(room) => room.enter(what, doubt),
                None => shard.entry(ns.clone()).or_default().enter(what, doubt),
            }
        };
        // After the seat is taken: a database's write that comes now finds the seat, one that came before is found.
        if self.databases_touched.load(Ordering::SeqCst) > 0
            && let Some(others) = lock(&self.databases).get(ns.db())
        {
            others.meet(doubt);
        }
        seat
    }

    fn enter_database(&self, ns: &Namespace, doubt: &Doubted) -> usize {
        self.databases_touched.fetch_add(1, Ordering::SeqCst);
        let seat = {
            let mut databases = lock(&self.databases);
            let others = databases.entry(ns.db().to_owned()).or_default();
            others.meet(doubt);
            others.take(doubt)
        };
        for shard in &self.shards {
            for (_, room) in lock(shard).iter().filter(|(other, _)| other.db() == ns.db()) {
                room.seats.meet(doubt);
            }
        }
        seat
    }

    fn leave(&self, place: &Place) {
        if let What::Database = place.what {
            let mut databases = lock(&self.databases);
            if let Some(others) = databases.get_mut(place.ns.db()) {
                others.free(place.seat);
                if others.is_empty() {
                    databases.remove(place.ns.db());
                }
            }
            self.databases_touched.fetch_sub(1, Ordering::SeqCst);
            return;
        }
        let mut shard = lock(self.shard(&place.ns));
        if let Some(room) = shard.get_mut(&place.ns) {
            room.leave(place);
            // An idle room is kept for the next write, unless there are many or it once was large.
            let roomy = room.keys.capacity() > ROOM_KEYS_KEPT;
            if room.seats.is_empty() && (roomy || shard.len() > ROOMS_KEPT) {
                shard.remove(&place.ns);
            }
        }
        if let What::Keys(keys) = &place.what {
            self.keys.fetch_sub(keys.len(), Ordering::SeqCst);
        }
    }

    fn shard(&self, ns: &Namespace) -> &Mutex<HashMap<Namespace, Room>> {
        // The remainder is below SHARDS, which fits.
        &self.shards[(self.hasher.hash_one(ns) % SHARDS as u64) as usize]
    }
}

impl Ticket {
    /// Whether another write that may touch the same document was in flight at the same time, so far.
    pub fn contended(&self) -> bool {
        self.doubt.load(Ordering::SeqCst)
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        for place in &self.places {
            self.table.leave(place);
        }
    }
}

impl std::fmt::Debug for Ticket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let places: Vec<&Namespace> = self.places.iter().map(|place| &place.ns).collect();
        f.debug_struct("Ticket").field("places", &places).field("contended", &self.contended()).finish()
    }
}

/// One namespace's writes in flight.
#[derive(Default)]
struct Room {
    seats: Seats,
    /// How many of the seats touch more than keys.
    broad: usize,
    keys: HashMap<u64, Holders>,
}

/// The writes in flight that hold one key.
struct Holders {
    count: usize,
    /// Who took the key when it was free. Only this one may have met nobody yet: whoever came later met it.
    first: Doubted,
}

impl Room {
    fn enter(&mut self, what: &What, doubt: &Doubted) -> usize {
        match what {
            What::Keys(keys) => {
                if self.broad > 0 {
                    self.seats.meet(doubt);
                }
                for key in keys {
                    match self.keys.entry(*key) {
                        Entry::Occupied(mut held) => {
                            let held = held.get_mut();
                            held.count += 1;
                            held.first.store(true, Ordering::SeqCst);
                            doubt.store(true, Ordering::SeqCst);
                        }
                        Entry::Vacant(free) => {
                            free.insert(Holders { count: 1, first: Arc::clone(doubt) });
                        }
                    }
                }
            }
            What::Namespace | What::Database => {
                self.seats.meet(doubt);
                self.broad += 1;
            }
        }
        self.seats.take(doubt)
    }

    fn leave(&mut self, place: &Place) {
        self.seats.free(place.seat);
        match &place.what {
            What::Keys(keys) => {
                for key in keys {
                    if let Entry::Occupied(mut held) = self.keys.entry(*key) {
                        held.get_mut().count -= 1;
                        if held.get().count == 0 {
                            held.remove();
                        }
                    }
                }
            }
            What::Namespace | What::Database => self.broad -= 1,
        }
    }
}

/// The doubt flags of writes in flight, each at a number that stays its own.
#[derive(Default)]
struct Seats {
    taken: Vec<Option<Doubted>>,
    free: Vec<usize>,
}

impl Seats {
    fn take(&mut self, doubt: &Doubted) -> usize {
        match self.free.pop() {
            Some(seat) => {
                self.taken[seat] = Some(Arc::clone(doubt));
                seat
            }
            None => {
                self.taken.push(Some(Arc::clone(doubt)));
                self.taken.len() - 1
            }
        }
    }

    fn free(&mut self, seat: usize) {
        self.taken[seat] = None;
        self.free.push(seat);
    }

    fn is_empty(&self) -> bool {
        self.taken.len() == self.free.len()
    }

    /// Puts `doubt` and everybody here in doubt, if there is anybody.
    fn meet(&self, doubt: &Doubted) {
        for other in self.taken.iter().flatten() {
            // Under contention flags are mostly set already: reading leaves their cache lines alone.
            if !other.load(Ordering::SeqCst) {
                other.store(true, Ordering::SeqCst);
            }
            doubt.store(true, Ordering::SeqCst);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

const SHARDS: usize = 64;
/// Idle namespaces that a shard remembers.
const ROOMS_KEPT: usize = 64;
/// Key slots that an idle namespace keeps: 64 x 64 x 1,024 x 24 bytes = 100 MB were every one that large.
const ROOM_KEYS_KEPT: usize = 1_024;

#[cfg(test)]
mod tests;
