//! Where clients come in and where they are led to: addresses, TLS, how many, and who may come from elsewhere.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, bail};
use futures_util::future::join_all;
use proxy::{Listener, Place, ServerTls, ServerTlsFiles, Upstream, UpstreamTls, UpstreamTlsFiles, Watch};
use tracing::{error, info, warn};

use crate::config::{Config, Listen, ListenerConfig, ProxyConfig};
use crate::files;

/// A certificate that ends sooner is spoken of at every start.
const EXPIRY_WARNING: Duration = Duration::from_secs(14 * 86_400);

/// What the listeners are made of; certificates and keys are read.
pub(crate) struct Doors {
    /// The servers behind the proxy, one for each listener.
    upstreams: Vec<Upstream>,
    /// TLS towards clients.
    pub(crate) tls: Option<Arc<ServerTls>>,
}

impl Doors {
    /// Reads the files that the settings name.
    pub(crate) fn read(config: &Config) -> anyhow::Result<Doors> {
        Ok(Doors { upstreams: upstreams(config)?, tls: server_tls(config)? })
    }

    /// Takes the proxy's port, or one for each member of a replica set.
    pub(crate) async fn open(
        self,
        config: &Config,
        watch: Option<Watch>,
        metrics: proxy::Metrics,
    ) -> anyhow::Result<Vec<Listener>> {
        let mut settings = self.settings(config).into_iter();
        let first = settings.next().context("there is no listener")?;
        let mut listeners = vec![Listener::bind(first, watch, metrics).await?];
        for next in settings {
            listeners.push(listeners[0].beside(next).await?);
        }
        Ok(listeners)
    }

    /// How the replicator gets to the servers behind the proxy, the way that clients' connections go.
    pub(crate) fn dials(&self) -> Vec<replicator::Dial> {
        self.upstreams.iter().cloned().map(dial).collect()
    }

    /// The settings of each listener.
    fn settings(self, config: &Config) -> Vec<proxy::Config> {
        let Doors { upstreams, tls } = self;
        let connections_max = connections_max(config);
        let one = |listen: Place, upstream: Upstream| proxy::Config {
            guarded: is_guarded(config) && !is_own_hosts(&listen),
            listen,
            unix_mode: config.proxy.socket_mode,
            tls: tls.clone(),
            upstream,
            connections_max,
            held_bytes_max: usize::try_from(config.proxy.held_bytes_max).unwrap_or(usize::MAX),
            handshake_timeout: config.proxy.handshake_timeout,
            frame_timeout: config.proxy.frame_timeout,
            idle_timeout: config.proxy.idle_timeout,
            durability: crate::app::durability(config),
            drain_timeout: config.proxy.drain_timeout,
            ..proxy::Config::new()
        };
        let members: Vec<proxy::Member> = config.proxy.listeners.iter().map(member).collect();
        if members.is_empty() {
            let listen = match &config.proxy.listen {
                Listen::Port(address) => Place::Tcp(address.to_string()),
                Listen::Socket(path) => Place::Unix(path.clone()),
            };
            let advertise = config.proxy.advertise.clone();
            let each = upstreams.into_iter().take(1);
            let each = each.map(|upstream| one(listen.clone(), upstream));
            return each.map(|settings| proxy::Config { advertise: advertise.clone(), ..settings }).collect();
        }
        let each = members.iter().zip(upstreams).map(|(own, upstream)| proxy::Config {
            advertise: own.advertise.clone(),
            member: Some(own.address.clone()),
            others: members.iter().filter(|other| *other != own).cloned().collect(),
            ..one(Place::Tcp(own.listen.to_string()), upstream)
        });
        each.collect()
    }
}

/// Whether a listener that others reach is to be guarded by mongod's own authentication.
fn is_guarded(config: &Config) -> bool {
    let ProxyConfig { allow_unauthenticated_remote, tls_client_ca_file, .. } = &config.proxy;
    outward(config).is_some() && !allow_unauthenticated_remote && tls_client_ca_file.is_none()
}

/// Who reaches this listener reaches mongod as well.
fn is_own_hosts(listen: &Place) -> bool {
    match listen {
        Place::Tcp(address) => address.parse().is_ok_and(|address: SocketAddr| address.ip().is_loopback()),
        Place::Unix(_) => true,
    }
}

/// The first listener that is reachable from other hosts.
fn outward(config: &Config) -> Option<Listen> {
    config.listens().into_iter().find(|listen| !listen.is_local())
}

/// A proxy beside mongod would give everybody who reaches it what mongod gives to its own host alone.
///
/// A mongod that is away, or appears later, is asked by the listener's gate.
pub(crate) async fn refuse_open(config: &Config, doors: &Doors) -> anyhow::Result<()> {
    let Some(listen) = outward(config) else { return Ok(()) };
    if config.proxy.allow_unauthenticated_remote {
        warn!(%listen, "proxy.allow_unauthenticated_remote is set: whoever reaches the proxy may do what mongod allows without a password");
        return Ok(());
    }
    let asked = join_all(doors.upstreams.iter().map(Upstream::is_open)).await;
    let open = asked.iter().any(|answer| matches!(answer, Ok(true)));
    if open && config.proxy.tls_client_ca_file.is_some() {
        info!(%listen, "the local mongod takes commands without authentication: only the certificates of proxy.tls_client_ca_file keep others out");
        return Ok(());
    }
    if let (Some(Err(error)), true) = (asked.iter().find(|answer| answer.is_err()), is_guarded(config)) {
        warn!(%error, "a local mongod cannot be asked yet whether it wants authentication: until then no client is served by its listener");
    }
    if open {
        bail!(
            "proxy.listen {listen} is reachable from other hosts, and the local mongod takes commands without \
             authentication (or has no users yet: to it, everybody comes from the proxy's host, and may create the first \
             one): switch authentication on in mongod and create a user, or listen on 127.0.0.1 or a Unix socket, or \
             ask clients for certificates (proxy.tls_client_ca_file), or set proxy.allow_unauthenticated_remote = true"
        );
    }
    Ok(())
}

/// A certificate that is shown for every client must not be somebody.
pub(crate) async fn warn_of_certificate_user(config: &Config, doors: &Doors) {
    if config.local.clients_cert_key_file.is_none() {
        return;
    }
    for user in join_all(doors.upstreams.iter().map(Upstream::certificate_user)).await {
        if let Ok(Some(user)) = user {
            warn!(
                user,
                "local.clients_cert_key_file is a user of the local mongod: every client can log in as it (MONGODB-X509), without a password"
            );
            return;
        }
    }
}

/// Host and port of each server behind the proxy; none for one behind its Unix socket.
fn servers(config: &Config) -> Vec<(String, u16)> {
    match config.proxy.listeners.as_slice() {
        [] => config.local.uri.hosts().to_vec(),
        several => several.iter().map(|it| (it.member.host().to_owned(), it.member.port())).collect(),
    }
}

fn upstreams(config: &Config) -> anyhow::Result<Vec<Upstream>> {
    let uri = &config.local.uri;
    let servers = servers(config);
    if let (true, Some(path)) = (servers.is_empty(), uri.sockets().first()) {
        return Ok(vec![Upstream::plain(Place::Unix(path.clone()))]);
    }
    let upstream = |(host, port): (String, u16)| {
        let is_v6 = host.contains(':');
        let address = if is_v6 { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
        let cert_key_file = config.local.clients_cert_key_file.clone();
        let files = uri.tls().map(|files| UpstreamTlsFiles { cert_key_file, ..files.clone() });
        let tls = files.map(|files| UpstreamTls::load(&host, &files)).transpose()?;
        Ok(Upstream { tls, ..Upstream::plain(address) })
    };
    servers.into_iter().map(upstream).collect()
}

fn dial(upstream: Upstream) -> replicator::Dial {
    Arc::new(move || {
        let upstream = upstream.clone();
        Box::pin(async move {
            let proxy::Dialled { stream, via } = upstream.dial().await?;
            Ok(replicator::Dialled { stream: Box::new(stream), via })
        })
    })
}

fn member(listener: &ListenerConfig) -> proxy::Member {
    let ListenerConfig { listen, member, advertise } = listener.clone();
    proxy::Member { address: member, listen, advertise }
}

fn server_tls(config: &Config) -> anyhow::Result<Option<Arc<ServerTls>>> {
    let Some(cert_file) = config.proxy.tls_cert_file.clone() else { return Ok(None) };
    let tls = ServerTls::load(ServerTlsFiles {
        cert_file,
        key_file: config.proxy.tls_key_file.clone(),
        client_ca_file: config.proxy.tls_client_ca_file.clone(),
    })?;
    warn_of_expiry(&tls);
    Ok(Some(Arc::new(tls)))
}

/// Reads certificate and key again.
pub(crate) fn reload(tls: &ServerTls) {
    match tls.reload() {
        Ok(()) => {
            info!("SIGHUP: certificate and key are read again");
            warn_of_expiry(tls);
        }
        Err(error) => error!(%error, "SIGHUP: the old certificate stays in use"),
    }
}

fn warn_of_expiry(tls: &ServerTls) {
    let Some(expires) = tls.expires() else { return };
    match expires.duration_since(SystemTime::now()) {
        Err(_) => {
            warn!("the certificate of proxy.tls_cert_file has expired: clients that check it stay away")
        }
        Ok(left) if left < EXPIRY_WARNING => {
            warn!(days = left.as_secs() / 86_400, "the certificate of proxy.tls_cert_file expires soon")
        }
        Ok(_) => {}
    }
}

/// As many connections as are asked for, and as there are files for.
fn connections_max(config: &Config) -> usize {
    let (wanted, fit) = (config.proxy.connections_max, files::connections_that_fit());
    if wanted <= fit {
        return wanted;
    }
    // The default is no promise; what somebody has asked for is.
    if config.is_set("proxy.connections_max") {
        warn!(
            wanted,
            fit,
            "proxy.connections_max is lowered to what the limit on open files allows: raise it (ulimit -n, LimitNOFILE=)"
        );
    } else {
        info!(fit, "the limit on open files allows fewer connections than proxy.connections_max");
    }
    fit
}
