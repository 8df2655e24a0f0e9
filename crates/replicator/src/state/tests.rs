use std::fs;

use bson::rawdoc;
use record::{Key, Namespace};

use super::file::FILE;
use super::*;

#[test]
fn what_is_saved_is_read_again() {
    let dir = tempfile::tempdir().unwrap();
    let ns = Namespace::new("d", "c");
    let key = Key::of(&rawdoc! {"_id": {"a": "ü"}}).unwrap();
    let mut state = State::open(dir.path(), "id", true, 1);
    state.set_desired(Desired::Paused);
    state.set_dirty(&ns, Dirty { not_copied_yet: true, ..Dirty::new("because", Cause::Unknown, 7) });
    assert!(!state.set_dirty(&ns, Dirty::new("another", Cause::Dropped, 8)));
    assert!(state.add_dead_letter(&ns, &key, Some(121), "refused", 8));
    state.save().unwrap();

    let state = State::open(dir.path(), "id", false, 9);
    assert_eq!(state.desired(), Desired::Paused);
    assert!(state.dirty().any(|(name, dirty)| name == ns && dirty.reason == "because"));
    assert!(state.dirty().all(|(_, dirty)| dirty.not_copied_yet && dirty.cause == Cause::Dropped));
    assert_eq!(state.dead_letters()[0].key(), Some(key));
    assert!(state.everything_dirty().is_none());
}

#[test]
fn what_is_kept_is_let_go_by_what_explains_it() {
    let dir = tempfile::tempdir().unwrap();
    let ns = Namespace::new("d", "c");
    let keep = |keep| Dirty { keep, ..Dirty::new("because", Cause::Written, 7) };
    let mut state = State::open(dir.path(), "id", true, 1);
    for (first, explained) in [(Keep::Unexplained, true), (Keep::Lost, false)] {
        state.set_uuid(&ns, Some("before"));
        state.set_dirty(&ns, keep(first));
        state.set_dirty(&ns, Dirty::new("written to", Cause::Written, 8));
        assert!(state.keeps(&ns));
        state.may_be_anew(&ns);
        assert_eq!((state.keeps(&ns), state.uuid(&ns)), (!explained, None));
        state.set_dirty(&ns, Dirty::new("dropped", Cause::Dropped, 9));
        assert!(!state.keeps(&ns));
        state.clear_dirty(&ns);
    }
}

#[test]
fn what_a_comparison_has_reached_counts_until_its_namespace_is_dirty_again() {
    let dir = tempfile::tempdir().unwrap();
    let ns = Namespace::new("d", "c");
    let reached = Reached::new(&rawdoc! {"_id": 7}, 5, 6);
    let mut state = State::open(dir.path(), "id", true, 1);
    state.set_reached(&ns, reached.clone());
    assert_eq!(state.reached(&ns), None, "it is not dirty");
    for (cause, counts) in [(Cause::Shape, true), (Cause::Asked, false), (Cause::Written, false)] {
        state.set_dirty(&ns, Dirty::new("first", Cause::Unknown, 1));
        state.set_reached(&ns, reached.clone());
        state.save().unwrap();
        let mut state = State::open(dir.path(), "id", false, 2);
        assert_eq!(state.reached(&ns).and_then(Reached::key), Some(rawdoc! {"_id": 7}));
        state.set_dirty(&ns, Dirty::new("again", cause, 2));
        assert_eq!(state.reached(&ns).is_some(), counts, "{cause:?}");
        state.clear_reached(&ns);
        assert_eq!(state.reached(&ns), None, "{cause:?}: forgotten");
        state.set_reached(&ns, reached.clone());
    }
    state.clear_dirty(&ns);
    state.set_dirty(&ns, Dirty::new("anew", Cause::Written, 3));
    assert_eq!(state.reached(&ns), None);
}

#[test]
fn a_lost_or_damaged_state_makes_everything_dirty() {
    let dir = tempfile::tempdir().unwrap();
    assert!(State::open(dir.path(), "id", true, 1).everything_dirty().is_none());
    assert!(State::open(dir.path(), "id", false, 1).everything_dirty().is_some());
    fs::write(dir.path().join(FILE), b"{ not json").unwrap();
    assert!(State::open(dir.path(), "id", true, 1).everything_dirty().is_some());
}
