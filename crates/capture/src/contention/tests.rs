use bson::rawdoc;
use record::{Key, Predicate, Raw};

use super::*;

fn key(ns: &str, id: i32) -> Target {
    let key = Key::of(&rawdoc! {"_id": id}).unwrap();
    Target::new(Namespace::parse(ns), Touch::Key(key))
}

fn predicate(ns: &str) -> Target {
    let filter = Raw(rawdoc! {"a": 1});
    Target::new(
        Namespace::parse(ns),
        Touch::Predicate(Predicate { filter, collation: None, variables: None }),
    )
}

fn namespace(ns: &str) -> Target {
    Target::new(Namespace::parse(ns), Touch::Namespace)
}

fn database(db: &str) -> Target {
    Target::new(Namespace::parse(db), Touch::Database)
}

fn table() -> Arc<Table> {
    Arc::new(Table::new(1_000))
}

#[test]
fn who_meets_whom() {
    let same = Key::of(&rawdoc! {"_id": 1.0}).unwrap();
    let same = Target::new(Namespace::parse("a.b"), Touch::Key(same));
    // (one write, another, they may touch the same document)
    let cases: Vec<(Vec<Target>, Vec<Target>, bool)> = vec![
        (vec![key("a.b", 1)], vec![key("a.b", 1)], true),
        (vec![key("a.b", 1)], vec![same], true), // D16
        (vec![key("a.b", 1)], vec![key("a.b", 2)], false),
        (vec![key("a.b", 1)], vec![key("a.c", 1)], false),
        (vec![key("a.b", 1), key("a.b", 2)], vec![key("a.b", 3), key("a.b", 2)], true),
        (vec![key("a.b", 1)], vec![predicate("a.b")], true),
        (vec![predicate("a.b")], vec![predicate("a.b")], true),
        (vec![predicate("a.b")], vec![predicate("a.c")], false),
        (vec![namespace("a.b")], vec![key("a.b", 1)], true),
        (vec![namespace("a.b"), namespace("a.c")], vec![key("a.c", 1)], true),
        (vec![database("a")], vec![key("a.b", 1)], true),
        (vec![database("a")], vec![key("ab.b", 1)], false),
        (vec![database("a")], vec![database("a")], true),
        (vec![database("a")], vec![database("b")], false),
        (vec![], vec![key("a.b", 1)], false),
    ];
    for (one, other, expected) in cases {
        for (first, second) in [(&one, &other), (&other, &one)] {
            let table = table();
            let first_ticket = table.enter(first);
            assert!(!first_ticket.contended());
            let second_ticket = table.enter(second);
            let met = (first_ticket.contended(), second_ticket.contended());
            assert_eq!(met, (expected, expected), "{first:?} {second:?}");
        }
    }
}

#[test]
fn a_write_does_not_meet_itself() {
    let table = table();
    let ticket =
        table.enter(&[key("a.b", 1), key("a.b", 1), predicate("a.b"), key("a.b", 2), predicate("a.c")]);
    assert!(!ticket.contended());
    assert!(!table.enter(&[key("a.d", 1)]).contended());
}

#[test]
fn who_left_is_not_met() {
    for targets in [vec![key("a.b", 1)], vec![predicate("a.b")], vec![database("a")]] {
        let table = table();
        drop(table.enter(&targets));
        let next = table.enter(&targets);
        assert!(!next.contended(), "{targets:?}");
        drop(next);
        assert_eq!(table.keys.load(Ordering::SeqCst), 0);
        assert_eq!(table.databases_touched.load(Ordering::SeqCst), 0);
        assert!(lock(&table.databases).is_empty());
    }
}

#[test]
fn the_last_of_three_is_met_when_the_first_has_left() {
    let table = table();
    let one = table.enter(&[key("a.b", 1)]);
    let two = table.enter(&[key("a.b", 1)]);
    drop(one);
    let three = table.enter(&[key("a.b", 1)]);
    assert!(two.contended() && three.contended());
    drop((two, three));
    assert!(!table.enter(&[key("a.b", 1)]).contended());
}

#[test]
fn too_many_keys_count_as_their_namespace() {
    let table = Arc::new(Table::new(10));
    let many: Vec<Target> = (0..11).map(|id| key("a.b", id)).collect();
    let large = table.enter(&many);
    let other = table.enter(&[key("a.b", 100)]);
    assert!(large.contended() && other.contended());
    let elsewhere: Vec<Target> = (0..9).map(|id| key("a.c", id)).collect();
    let elsewhere = table.enter(&elsewhere);
    assert!(!elsewhere.contended());
    drop((large, other, elsewhere));
    assert_eq!(table.keys.load(Ordering::SeqCst), 0);
}

#[test]
fn idle_namespaces_are_forgotten() {
    let table = table();
    for n in 0..20_000 {
        drop(table.enter(&[key(&format!("a.c{n}"), 1)]));
    }
    let rooms: usize = table.shards.iter().map(|shard| lock(shard).len()).sum();
    assert!(rooms <= SHARDS * (ROOMS_KEPT + 1), "{rooms}");
}

/// 16 threads enter, note who else is inside by a slow but obvious rule, and leave. Nobody who was certainly inside
/// together with another that touches the same may be without doubt.
#[test]
fn no_meeting_is_lost() {
    const THREADS: usize = 16;
    const ROUNDS: usize = 3_000;
    let seed = fastrand::u64(..);
    let table = table();
    // Who is inside and wants what: entered after the ticket was taken, left before it is dropped. So two that
    // see each other here are in flight together; the reverse need not hold.
    let inside: Arc<Mutex<HashMap<usize, (i32, bool)>>> = Arc::default();
    let threads: Vec<_> = (0..THREADS)
        .map(|me| {
            let (table, inside) = (Arc::clone(&table), Arc::clone(&inside));
            std::thread::spawn(move || {
                let mut random = fastrand::Rng::with_seed(seed.wrapping_add(me as u64));
                for round in 0..ROUNDS {
                    let (wanted, broad) = (random.i32(0..40), random.u8(0..97) == 0);
                    let target = match (broad, random.u8(0..3)) {
                        (false, _) => key("a.b", wanted),
                        (true, 0) => database("a"),
                        (true, 1) => namespace("a.b"),
                        (true, _) => predicate("a.b"),
                    };
                    let ticket = table.enter([&target]);
                    let met = {
                        let mut inside = inside.lock().unwrap();
                        let met = inside.values().any(|(key, all)| broad || *all || *key == wanted);
                        inside.insert(me, (wanted, broad));
                        met
                    };
                    if round % 7 == 0 {
                        std::thread::yield_now();
                    }
                    // The others are told as well: whoever came in since has found us.
                    let found = {
                        let mut inside = inside.lock().unwrap();
                        inside.remove(&me);
                        inside.values().any(|(key, all)| broad || *all || *key == wanted)
                    };
                    assert!(!(met || found) || ticket.contended(), "seed {seed} thread {me} round {round}");
                }
            })
        })
        .collect();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    assert_eq!(table.keys.load(Ordering::SeqCst), 0);
    assert!(table.shards.iter().all(|shard| lock(shard).values().all(|room| room.seats.is_empty())));
}
