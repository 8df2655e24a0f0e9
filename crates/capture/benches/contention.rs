//! What finding out who else is in flight costs, beside all that capture does with a write.
//!
//! `cargo bench -p capture`: an update by `_id`, from its request to its entry, and of that the contention table alone
//! (enter and leave), with writes on keys of their own and on one hot key, from one thread and from several.

#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a benchmark talks, and may fail"
)]

use std::sync::{Arc, Barrier};
use std::thread;
use std::time::Instant;

use bson::rawdoc;
use capture::{Capture, Config};
use record::{Key, Namespace, Target, Touch};
use wire::{Flags, Section, encode_msg};

const WRITES: usize = 200_000;
const ROUNDS: usize = 7;

fn main() {
    if !std::env::args().any(|arg| arg == "--bench") {
        println!("measures nothing unless called by cargo bench");
        return;
    }
    println!("nanoseconds a write, the median of {ROUNDS} rounds of {WRITES}\n");
    println!("{:<12}{:>8}{:>14}{:>14}{:>10}", "keys", "threads", "capture", "contention", "share");
    for (name, hot) in [("own", false), ("one", true)] {
        for threads in [1, 2, 4] {
            let whole = median(|| run(threads, hot, whole_write));
            let alone = median(|| run(threads, hot, contention_alone));
            let share = 100.0 * alone / whole;
            println!("{name:<12}{threads:>8}{whole:>14.0}{alone:>14.0}{share:>9.0}%");
        }
    }
}

/// Nanoseconds a write, of all threads together.
fn run(threads: usize, hot: bool, write: fn(&Arc<Capture>, usize, i64)) -> f64 {
    let capture = Capture::new(Config::default());
    let start = Arc::new(Barrier::new(threads + 1));
    let workers: Vec<_> = (0..threads)
        .map(|thread| {
            let (capture, start) = (Arc::clone(&capture), Arc::clone(&start));
            thread::spawn(move || {
                start.wait();
                let each = WRITES / threads;
                write(&capture, each, if hot { 1 } else { thread as i64 * 1_000_000 });
            })
        })
        .collect();
    start.wait();
    let began = Instant::now();
    workers.into_iter().for_each(|worker| worker.join().unwrap());
    began.elapsed().as_secs_f64() * 1e9 / WRITES as f64
}

/// Request, mark, reply, entry. Keys from `first` on, or that one only when it is 1.
fn whole_write(capture: &Arc<Capture>, writes: usize, first: i64) {
    let session = capture.session("127.0.0.1:1".to_owned());
    let reply = rawdoc! {"n": 1, "nModified": 1, "ok": 1.0};
    let reply = encode_msg(1, 7, Flags::default(), &[Section::Body(&reply)]).unwrap();
    let requests: Vec<Vec<u8>> = (0..DIFFERENT).map(|at| request(key(first, at))).collect();
    for at in 0..writes {
        let mut write = session.request(&requests[at % requests.len()]).unwrap();
        write.mark(0).unwrap();
        write.marked(at as u64);
        let ended = write.outcome(&reply, 0);
        assert_eq!(ended.appends.len(), 1);
    }
}

fn contention_alone(capture: &Arc<Capture>, writes: usize, first: i64) {
    let target = |at| {
        let id = rawdoc! {"_id": key(first, at)};
        Target::new(Namespace::new("shop", "items"), Touch::Key(Key::of(&id).unwrap()))
    };
    let targets: Vec<Target> = (0..DIFFERENT).map(target).collect();
    for at in 0..writes {
        let ticket = capture.enter(std::slice::from_ref(&targets[at % targets.len()]));
        std::hint::black_box(ticket.contended());
    }
}

fn key(first: i64, at: i64) -> i64 {
    if first == 1 { 1 } else { first + at }
}

fn request(id: i64) -> Vec<u8> {
    let update = rawdoc! {"q": {"_id": id}, "u": {"$inc": {"n": 1}}};
    let body = rawdoc! {"update": "items", "updates": [update], "$db": "shop"};
    encode_msg(7, 0, Flags::default(), &[Section::Body(&body)]).unwrap()
}

fn median(mut run: impl FnMut() -> f64) -> f64 {
    let mut all: Vec<f64> = (0..ROUNDS).map(|_| run()).collect();
    all.sort_by(f64::total_cmp);
    all[ROUNDS / 2]
}

const DIFFERENT: i64 = 1_000;
