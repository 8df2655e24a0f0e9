use super::*;

fn project() -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    for (path, text) in [
        (
            "crates/proxy/src/listener.rs",
            "pub struct Listener;\nimpl Listener {\n    pub(crate) async fn run(&self) {}\n}",
        ),
        ("crates/proxy/src/session/relay.rs", "pub fn forward_requests<R>(reader: R) {}"),
        ("src/app.rs", "pub async fn run() {}"),
        ("src/cli.rs", "enum Command { CheckConfig }"),
        ("benches/latency.rs", ""),
        (".ci/run", ""),
    ] {
        let path = root.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    root
}

#[test]
fn mentions_lead_somewhere() {
    let root = project();
    let check = |line: &str, complaints: usize| {
        let found = mentions(root.path(), "PAGE.md", line);
        assert_eq!(found.len(), complaints, "{line}: {found:?}");
    };
    check("1. `proxy/listener.rs: Listener::run` accepts", 0);
    check("`proxy/session/relay.rs: forward_requests` and `proxy/listener.rs`, `listener.rs: Listener`", 0);
    check("`src/app.rs: run` wires, `crates/proxy/src/listener.rs: run()`", 0);
    check("no mention: `Listener::run`, `cargo run`, `proxy.toml`", 0);
    check("`proxy/listener.rs: Listener::walk`", 1);
    check("`proxy/listener.rs: Session::run`", 1);
    check("`proxy/nowhere.rs: run`, `nowhere.rs`, `listener.rs: ru`", 3);
}

#[test]
fn readme_commands_exist() {
    let root = project();
    let check = |line: &str, good: bool| {
        let found = commands(root.path(), &format!("cargo xtask prose\n```sh\n{line}\n```\n"));
        assert_eq!(found.is_empty(), good, "{line}: {found:?}");
    };
    check("cargo xtask demo --once --sabotage", true);
    check("cargo xtask demo --seconds 5   # gently", true);
    check("$ MONGODB_ATLAS_URI=mongodb+srv://… cargo run --release", true);
    check("cargo run --release -- check-config --config proxy.toml", true);
    check("dualsync check-config", true);
    check("cargo bench --bench latency", true);
    check(".ci/run", true);
    check("curl -s http://127.0.0.1:27080/healthz", true);
    check("cargo xtask dance", false);
    check("cargo xtask demo --twice", false);
    check("cargo run -- restore", false);
    check("dualsync check-it", false);
    check("cargo bench --bench weather", false);
    check("./install.sh", false);
}

#[test]
fn notes_and_lengths() {
    let note = |text: &str| notes("a.rs", text).len();
    assert_eq!(note(&format!("// {}: later\nfine\n//{}", NOTES[0], NOTES[1])), 2);
    assert_eq!(note("todo!() is for the linter, autodoc is fine"), 0);
    let lines = |count: usize| "x\n".repeat(count);
    assert!(too_long("src/a.rs", &lines(601)).is_some());
    assert!(too_long("src/a.rs", &lines(600)).is_none());
    assert!(too_long("src/a.rs", &format!("{}#[cfg(test)]\n{}", lines(10), lines(900))).is_none());
    assert!(too_long("crates/a/tests/it.rs", &lines(900)).is_none());
    assert!(too_long("crates/a/src/b/tests.rs", &lines(900)).is_none());
}
