//! Rules over several keys: what is refused, and what is only warned of.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use proxy::Address;

use super::read::{Origin, Reader, Setting};
use super::secret::Uri;
use super::{Config, Enabled};

/// What cannot work, or must not.
pub(super) fn refuse(config: &Config, reader: &mut Reader) {
    let Config { local, atlas, sync, log, admin, .. } = config;
    let on_command_line =
        |setting: &Setting| matches!(setting.origin, Origin::Flag(_)) && setting.key == "local.uri";
    reader.forbid(
        local.uri.has_secrets() && reader.settings.iter().any(on_command_line),
        &["local.uri"],
        "would show its password to everybody who lists processes: set MONGODB_LOCAL_URI instead",
    );
    let listens = config.listens();
    let is_ours = |host: &(String, u16)| listens.iter().any(|listen| leads_to(host, *listen));
    reader.forbid(
        local.uri.hosts().iter().any(is_ours),
        &["local.uri", "proxy.listen", "proxy.listeners"],
        "is dualsync's own address (proxy.listen): name the local mongod",
    );
    refuse_listeners(config, reader, &listens);
    if let Some(target) = &atlas.uri {
        reader.forbid(
            share_a_server(target, &local.uri),
            &["atlas.uri", "local.uri"],
            "is the local server (local.uri): name the remote cluster",
        );
        reader.forbid(
            target.hosts().iter().any(is_ours),
            &["atlas.uri", "proxy.listen", "proxy.listeners"],
            "is dualsync's own address (proxy.listen): name the remote cluster",
        );
    }
    reader.forbid(
        sync.enabled == Enabled::On && atlas.uri.is_none(),
        &["sync.enabled", "atlas.uri"],
        "needs a target: set MONGODB_ATLAS_URI, or switch syncing off",
    );
    reader.forbid(
        listens.contains(&admin.listen) && admin.listen.port() != 0,
        &["admin.listen", "proxy.listen", "proxy.listeners"],
        "is the proxy's own address (proxy.listen): choose another port",
    );
    reader.forbid(
        !is_loopback(admin.listen.ip()) && admin.token.is_none(),
        &["admin.listen", "admin.token"],
        "is reachable from other hosts, which needs a token: set DUALSYNC_ADMIN_TOKEN, or listen on 127.0.0.1",
    );
    reader.forbid(
        admin.token.is_some() && admin.token == admin.read_token,
        &["admin.read_token", "admin.token"],
        "is the same as admin.token, so that reading would be changing: choose another one",
    );
    reader.forbid(
        log.segment_bytes_max > log.max_bytes,
        &["log.segment_bytes_max", "log.max_bytes"],
        "is more than the whole log may have (log.max_bytes)",
    );
}

/// One server behind `proxy.listen`, or one member behind each of `proxy.listeners`.
fn refuse_listeners(config: &Config, reader: &mut Reader, listens: &[SocketAddr]) {
    let Config { proxy, local, .. } = config;
    if proxy.listeners.is_empty() {
        reader.forbid(
            local.uri.hosts().len() > 1,
            &["local.uri", "proxy.listeners"],
            "names several servers, and proxy.listen leads to one server: name that, or give each member a listener of \
             its own in proxy.listeners",
        );
        return;
    }
    // proxy.toml as it is shipped names the default.
    for (given, key) in
        [(proxy.listen != LISTEN_DEFAULT, "proxy.listen"), (proxy.advertise.is_some(), "proxy.advertise")]
    {
        reader.forbid(
            given,
            &[key, "proxy.listeners"],
            "does not go together with proxy.listeners: take one of them out",
        );
    }
    let members: BTreeSet<&Address> = proxy.listeners.iter().map(|listener| &listener.member).collect();
    let ports: BTreeSet<&SocketAddr> = listens.iter().collect();
    let names: BTreeSet<&String> = proxy.listeners.iter().filter_map(|it| it.advertise.as_ref()).collect();
    let named = proxy.listeners.iter().filter(|it| it.advertise.is_some()).count();
    reader.forbid(
        members.len() < listens.len() || ports.len() < listens.len() || names.len() < named,
        &["proxy.listeners"],
        "names a member, an address to listen on or one to advertise twice: each listener has its own",
    );
    let own = |member: &Address| (member.host().to_owned(), member.port());
    reader.forbid(
        members.iter().any(|member| listens.iter().any(|listen| leads_to(&own(member), *listen))),
        &["proxy.listeners"],
        "has a member that is one of dualsync's own addresses: name the mongod",
    );
    reader.forbid(
        proxy.listeners.len() > 1 && local.uri.is_direct(),
        &["local.uri", "proxy.listeners"],
        "stays with one server (directConnection), which will not always be the primary: take that out",
    );
}

/// What works and deserves a second look; said by `check-config` and at every start.
pub(super) fn warnings(config: &Config) -> Vec<String> {
    let Config { proxy, local, atlas, sync, admin, settings, .. } = config;
    let mut warnings = Vec::new();
    let mut warn = |when: bool, text: String| {
        if when {
            warnings.push(text);
        }
    };
    let in_file = |key: &str| {
        settings.iter().any(|setting| setting.key == key && matches!(setting.origin, Origin::File(_)))
    };
    for (key, is_secret) in [
        ("local.uri", local.uri.has_secrets()),
        ("atlas.uri", atlas.uri.as_ref().is_some_and(Uri::has_secrets)),
        ("admin.token", admin.token.is_some()),
        ("admin.read_token", admin.read_token.is_some()),
    ] {
        let better = "it is better kept in the environment or in a file of its own";
        warn(
            is_secret && in_file(key),
            format!("{key}: a secret stands in the configuration file; {better}"),
        );
    }
    for (key, token) in [("admin.token", &admin.token), ("admin.read_token", &admin.read_token)] {
        let short = token.as_ref().is_some_and(|token| token.expose().len() < TOKEN_CHARS_ENOUGH);
        warn(
            short,
            format!(
                "{key}: shorter than {TOKEN_CHARS_ENOUGH} characters; make one with openssl rand -hex 24"
            ),
        );
    }
    warn(
        admin.token.is_none(),
        "admin.token: not set, so reports and orders answer 401; set DUALSYNC_ADMIN_TOKEN".to_owned(),
    );
    warn(
        proxy.allow_unauthenticated_remote && config.listens().iter().any(|listen| !is_loopback(listen.ip())),
        "proxy.allow_unauthenticated_remote: whoever reaches proxy.listen may do anything to the local mongod \
         that it allows without authentication"
            .to_owned(),
    );
    for internal in ["admin", "config", "local"] {
        let asked_for = sync.include.iter().any(|pattern| pattern.is_database(internal));
        warn(asked_for, format!("sync.include: the database {internal} is never replicated"));
    }
    warnings
}

fn share_a_server(one: &Uri, other: &Uri) -> bool {
    let same = |(a, port_a): &(String, u16), (b, port_b): &(String, u16)| {
        port_a == port_b && (a == b || (names_loopback(a) && names_loopback(b)))
    };
    one.hosts().iter().any(|a| other.hosts().iter().any(|b| same(a, b)))
}

/// Whether dialling `host` reaches a listener at `listen`, as far as that can be told without the network.
fn leads_to((host, port): &(String, u16), listen: SocketAddr) -> bool {
    let here = listen.ip().to_canonical();
    let same_host = host.parse().is_ok_and(|ip: IpAddr| ip.to_canonical() == here)
        || (names_loopback(host) && (here.is_loopback() || here.is_unspecified()));
    *port == listen.port() && same_host
}

fn names_loopback(host: &str) -> bool {
    host == "localhost" || host.parse().is_ok_and(is_loopback)
}

fn is_loopback(ip: IpAddr) -> bool {
    ip.to_canonical().is_loopback()
}

/// Of proxy.listen.
const LISTEN_DEFAULT: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 27018);
/// 16 random characters are beyond guessing.
const TOKEN_CHARS_ENOUGH: usize = 16;
