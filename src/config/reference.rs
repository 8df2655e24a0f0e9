//! Makes `proxy.toml` and `docs/configuration.md` from the list of keys, and holds them to it.

use std::fmt::Write as _;
use std::path::Path;

use super::old_names::OLD_NAMES;
use super::settings::reference;
use super::sources::{SECRET_KEYS, variable};

/// All about one key.
pub(super) struct Entry {
    pub(super) name: &'static str,
    pub(super) default: String,
    pub(super) allowed: String,
    pub(super) doc: String,
}

#[test]
fn proxy_toml_is_up_to_date() {
    check("proxy.toml", &proxy_toml());
}

#[test]
fn the_reference_page_is_up_to_date() {
    check("docs/configuration.md", &page());
}

fn check(file: &str, expected: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
    if std::env::var_os("REGENERATE").is_some() {
        std::fs::write(&path, expected).unwrap();
    }
    let found = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        found == expected,
        "{file} is not what src/config/settings.rs says; make it anew: REGENERATE=1 cargo test -p dualsync reference"
    );
}

fn proxy_toml() -> String {
    let mut out = comment(TOML_INTRO);
    for (section, doc, entries) in reference() {
        let _ = write!(out, "\n{}[{section}]\n", comment(&doc));
        for Entry { name, default, allowed, doc } in entries {
            let allowed = format!("Must be {allowed}.");
            let line = match TABLES.iter().find(|(key, _)| *key == name) {
                // An empty list would stand in the way of the tables.
                Some((_, example)) => (*example).to_owned(),
                None => format!("{name} = {default}\n"),
            };
            let _ = write!(out, "\n{}{}{line}", comment(&doc), comment(&allowed));
        }
    }
    out
}

fn page() -> String {
    let mut out = PAGE_INTRO.to_owned();
    for (section, doc, entries) in reference() {
        let _ = write!(out, "\n## [{section}]\n\n{}\n\n", doc.trim());
        out.push_str("| key | default | allowed | meaning |\n|---|---|---|---|\n");
        for Entry { name, default, allowed, doc } in entries {
            let default = if default == "\"\"" { "not set".to_owned() } else { format!("`{default}`") };
            let _ = writeln!(
                out,
                "| `{section}.{name}`<br>`{}` | {default} | {} | {} |",
                variable(section, name),
                cell(&allowed),
                cell(&doc)
            );
        }
    }
    out.push_str(OLD_INTRO);
    for old in OLD_NAMES {
        let _ = writeln!(out, "| `{}` | `{}` | {} |", old.name, old.key, cell(old.allowed));
    }
    let files: Vec<String> = SECRET_KEYS
        .iter()
        .filter_map(|key| key.split_once('.'))
        .map(|(section, key)| format!("`{}_FILE`", variable(section, key)))
        .collect();
    let _ = writeln!(out, "{SECRETS}{}.", files.join(", "));
    out
}

fn cell(text: &str) -> String {
    text.trim().replace('|', "\\|")
}

/// Comment lines of a readable length.
fn comment(text: &str) -> String {
    let mut out = String::new();
    let mut column = COLUMNS;
    for word in text.split_whitespace() {
        if column + word.len() >= COLUMNS {
            out.push_str(if out.is_empty() { "#" } else { "\n#" });
            column = 1;
        }
        out.push(' ');
        out.push_str(word);
        column += word.len() + 1;
    }
    out.push('\n');
    out
}

const COLUMNS: usize = 100;

/// Keys that are written as tables, and how.
const TABLES: &[(&str, &str)] = &[(
    "listeners",
    "#
# [[proxy.listeners]]
# listen = \"127.0.0.1:27018\"
# member = \"db1.internal:27017\"
# advertise = \"proxy.internal:27018\"
",
)];

const TOML_INTRO: &str = "The settings of dualsync: every key with its default. Each can also be set in the environment as \
    DUALSYNC_<SECTION>_<KEY>; the environment counts more than this file. docs/configuration.md tells the rest; \
    `dualsync check-config` shows what counts. Secrets do not belong in here.";

const PAGE_INTRO: &str = "\
# Configuration

<!-- Made from src/config/settings.rs: REGENERATE=1 cargo test -p dualsync reference -->

Settings come from, each one counting more than those before it:

1. the defaults below;
2. `proxy.toml` in the working directory, or the file of `--config PATH`;
3. `.env` in the working directory (read as Node's dotenv reads it);
4. the environment: the variable under each key, or one of the [old names](#names-of-the-original);
5. the flags `--listen` and `--local-uri`.

A variable that is empty counts as not set. Times need a unit (`100ms`, `5s`, `2m`, `1h`, `1d`), sizes may have one
(`512MiB`, `64KB`; none: bytes), lists are TOML lists in the file and separated by commas elsewhere.
Unknown keys, values that are not allowed and settings that do not go together are all named at once, and dualsync ends
with status 2. `dualsync check-config` does only that, prints the settings as they count, and asks servers that answer what
dualsync's users may do there: a right that nothing goes without ends it with status 2, any other is a warning; each with
the role that gives it.
";

const OLD_INTRO: &str = "
## Names of the original

The variables of the Node.js original work as they are. One that says something else than the new variable of the same
key is an error. Their numbers are bare: counts, or milliseconds.

| variable | sets | allowed |
|---|---|---|
";

const SECRETS: &str = "
## Secrets

Connection strings with passwords and tokens come from the environment, or from a file that a variable names:
";
