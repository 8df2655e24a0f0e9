//! The host went down, or may have: what was not synced is suspect, and what was is not.
#![allow(clippy::unwrap_used, clippy::panic, reason = "test code")]

mod common;

use std::fs;
use std::path::PathBuf;

use common::{crashed, fill, flip, goes_on, held, open, quiet, read_through, scratch, segments, store};
use synclog::Lsn;

#[test]
fn after_the_host_went_down_everything_is_suspect() {
    let dir = scratch();
    let config = quiet(dir.path());
    let (log, _) = open(&config);
    fill(&log, 10, 21);
    let mut copy = crashed(&config, dir.path());
    copy.boot_id = Some([2; 16]);
    let (log_after, found) = open(&copy);
    assert!(found.gap.as_ref().is_some_and(|gap| gap.contains("host went down")), "{found:?}");
    assert_eq!((found.head, found.torn_bytes), (Lsn(11), 0));
    goes_on(&log_after, &copy, 21);

    // Nor is it known to have stayed up, where nobody says which boot this is, or that was.
    for (was, is) in [([1; 16], [0; 16]), ([0; 16], [2; 16]), ([0; 16], [0; 16])] {
        let dir = scratch();
        let mut config = quiet(dir.path());
        config.boot_id = Some(was);
        let (log, _) = open(&config);
        fill(&log, 10, 21);
        let mut copy = crashed(&config, dir.path());
        copy.boot_id = Some(is);
        let (log_after, found) = open(&copy);
        assert!(found.gap.as_ref().is_some_and(|gap| gap.contains("may have gone down")), "{found:?}");
        assert_eq!((found.head, found.torn_bytes), (Lsn(11), 0));
        goes_on(&log_after, &copy, 21);
        log.close().unwrap();
    }

    // One that was closed before is not suspect.
    log.close().unwrap();
    for boot in [[2; 16], [0; 16]] {
        let mut copy = crashed(&config, dir.path());
        copy.boot_id = Some(boot);
        assert!(open(&copy).1.clean);
    }
}

#[tokio::test]
async fn records_tell_what_was_synced_before_them() {
    let dir = scratch();
    let config = quiet(dir.path());
    let (log, _) = open(&config);
    fill(&log, 10, 21);
    log.wait_durable(Lsn(11)).await.unwrap();
    fill(&log, 2, 21);
    // The host restarted. Record 5 was synced, so no power loss can have taken it; record 11 was not.
    for (lsn, torn) in [(5, 0), (11, 2 * 56)] {
        let mut copy = crashed(&config, dir.path());
        copy.boot_id = Some([2; 16]);
        flip(&segments(&copy.dir)[0], 64 + (lsn - 1) * 56 + 40);
        let (_, found) = open(&copy);
        assert_eq!(found.torn_bytes, torn, "{found:?}");
        assert_eq!(found.gap.unwrap().contains(&format!("damaged at position {lsn}")), torn == 0);
    }
}

#[test]
fn power_loss_out_of_order_is_cut_and_counted() {
    let dir = scratch();
    let config = quiet(dir.path());
    let (log, _) = open(&config);
    fill(&log, 10, 21);
    let zero_record_six = |path: &PathBuf| {
        let mut bytes = fs::read(path).unwrap();
        bytes[64 + 5 * 56..64 + 6 * 56].fill(0);
        fs::write(path, bytes).unwrap();
    };
    // The same bytes: after a restart of the host a page that was not written, else damage.
    for (boot, torn) in [(2, 5 * 56), (1, 0)] {
        let mut copy = crashed(&config, dir.path());
        copy.boot_id = Some([boot; 16]);
        zero_record_six(&segments(&copy.dir)[0]);
        let (log, found) = open(&copy);
        assert_eq!(found.torn_bytes, torn, "{found:?}");
        assert!(found.gap.is_some());
        assert_eq!(found.head, Lsn(11), "no position is given twice");
        assert_eq!(read_through(&log).0.len(), 5);
        goes_on(&log, &copy, 21);
    }
    // And when record six was synced, it is damage all the same.
    store(&log, 8);
    fill(&log, 2, 21);
    let mut copy = crashed(&config, dir.path());
    copy.boot_id = Some([2; 16]);
    zero_record_six(&segments(&copy.dir)[0]);
    let (_, found) = open(&copy);
    assert!(found.gap.unwrap().contains("damaged at position 6"));
}

#[test]
fn power_loss_in_one_segment_takes_the_next_ones_along() {
    let dir = scratch();
    let (config, gate) = held(dir.path());
    let (log, _) = open(&config);
    fill(&log, 40, 100);
    let mut copy = crashed(&config, dir.path());
    drop(gate);
    copy.boot_id = Some([2; 16]);
    flip(&segments(&copy.dir)[0], 64 + 5 * 136 + 50);
    let (log, found) = open(&copy);
    assert_eq!((found.torn_bytes, found.set_aside.len()), (35 * 136, 2), "{found:?}");
    assert!(found.gap.is_some());
    assert_eq!(found.head, Lsn(41), "no position is given twice");
    assert_eq!(read_through(&log).0.len(), 5);
    goes_on(&log, &copy, 100);
}
