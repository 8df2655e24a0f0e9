//! Rules over several keys: what is refused, and what is only warned of.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use proxy::Address;

use super::read::{Origin, Reader, Setting};
use super::secret::Uri;
use super::{Config, Enabled, Listen};

/// What cannot work, or must not.
pub(super) fn refuse(config: &Config, reader: &mut Reader) {
    let Config { proxy, local, atlas, sync, admin, .. } = config;
    let on_command_line =
        |setting: &Setting| matches!(setting.origin, Origin::Flag(_)) && setting.key == "local.uri";
    reader.forbid(
        local.uri.has_secrets() && reader.settings.iter().any(on_command_line),
        &["local.uri"],
        "would show its password to everybody who lists processes: set MONGODB_LOCAL_URI instead",
    );
    let listens = config.listens();
    let is_ours = |uri: &Uri| listens.iter().any(|listen| leads_to(uri.hosts(), uri.sockets(), listen));
    reader.forbid(
        is_ours(&local.uri),
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
            is_ours(target),
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
        listens.contains(&Listen::Port(admin.listen)) && admin.listen.port() != 0,
        &["admin.listen", "proxy.listen", "proxy.listeners"],
        "is the proxy's own address (proxy.listen): choose another port",
    );
    reader.forbid(
        proxy.tls_key_file.is_some() && proxy.tls_cert_file.is_none(),
        &["proxy.tls_key_file", "proxy.tls_cert_file"],
        "is a key without its certificate: set proxy.tls_cert_file as well",
    );
    reader.forbid(
        proxy.tls_client_ca_file.is_some() && proxy.tls_cert_file.is_none(),
        &["proxy.tls_client_ca_file", "proxy.tls_cert_file"],
        "asks clients for certificates, which needs TLS: set proxy.tls_cert_file as well",
    );
    reader.forbid(
        proxy.tls_cert_file.is_some() && matches!(proxy.listen, Listen::Socket(_)),
        &["proxy.tls_cert_file", "proxy.listen"],
        "is for a port; a Unix socket (proxy.listen) takes no TLS",
    );
    reader.forbid(
        local.clients_cert_key_file.is_some() && local.uri.tls().is_none(),
        &["local.clients_cert_key_file", "local.uri"],
        "is shown over TLS only: add tls=true to local.uri",
    );
    reader.forbid(
        local.uri.tls().is_some() && !local.uri.sockets().is_empty(),
        &["local.uri"],
        "asks for TLS over a Unix socket, which mongod does not take there: leave tls=true out",
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
}

/// One server behind `proxy.listen`, or one member behind each of `proxy.listeners`.
fn refuse_listeners(config: &Config, reader: &mut Reader, listens: &[Listen]) {
    let Config { proxy, local, .. } = config;
    if proxy.listeners.is_empty() {
        reader.forbid(
            local.uri.hosts().len() + local.uri.sockets().len() > 1,
            &["local.uri", "proxy.listeners"],
            "names several servers, and proxy.listen leads to one server: name that, or give each member a listener of \
             its own in proxy.listeners",
        );
        return;
    }
    // proxy.toml as it is shipped names the default.
    for (given, key) in [
        (proxy.listen != Listen::Port(LISTEN_DEFAULT), "proxy.listen"),
        (proxy.advertise.is_some(), "proxy.advertise"),
    ] {
        reader.forbid(
            given,
            &[key, "proxy.listeners"],
            "does not go together with proxy.listeners: take one of them out",
        );
    }
    let members: BTreeSet<&Address> = proxy.listeners.iter().map(|listener| &listener.member).collect();
    let ports: BTreeSet<SocketAddr> = proxy.listeners.iter().map(|it| it.listen).collect();
    let names: BTreeSet<&String> = proxy.listeners.iter().filter_map(|it| it.advertise.as_ref()).collect();
    let named = proxy.listeners.iter().filter(|it| it.advertise.is_some()).count();
    reader.forbid(
        members.len() < listens.len() || ports.len() < listens.len() || names.len() < named,
        &["proxy.listeners"],
        "names a member, an address to listen on or one to advertise twice: each listener has its own",
    );
    let own: Vec<_> = members.iter().map(|member| (member.host().to_owned(), member.port())).collect();
    reader.forbid(
        listens.iter().any(|listen| leads_to(&own, &[], listen)),
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
        proxy.allow_unauthenticated_remote && !config.listens().iter().all(Listen::is_local),
        "proxy.allow_unauthenticated_remote: whoever reaches proxy.listen may do anything to the local mongod \
         that it allows without authentication"
            .to_owned(),
    );
    warn(
        local.uri.tls().is_some_and(|tls| tls.allow_invalid_certificates),
        "local.uri: tlsAllowInvalidCertificates takes anybody for the local mongod; name its CA with tlsCAFile".to_owned(),
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
        || one.sockets().iter().any(|path| other.sockets().contains(path))
}

/// Whether dialling one of these reaches a listener at `listen`, as far as that can be told without the network.
fn leads_to(hosts: &[(String, u16)], sockets: &[PathBuf], listen: &Listen) -> bool {
    let listen = match listen {
        Listen::Port(address) => address,
        Listen::Socket(path) => return sockets.contains(path),
    };
    let here = listen.ip().to_canonical();
    let is_here = |host: &str| {
        host.parse().is_ok_and(|ip: IpAddr| ip.to_canonical() == here)
            || (names_loopback(host) && (here.is_loopback() || here.is_unspecified()))
    };
    hosts.iter().any(|(host, port)| *port == listen.port() && is_here(host))
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
