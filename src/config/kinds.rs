//! Kinds of values: how each is read, what is allowed, how it may be shown.

use std::fmt::{self, Display};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use super::secret::{self, Secret, Uri};
use super::settings::ListenerConfig;
use capture::Pattern;
use proxy::Address;

/// A value as it was written: one text, or a list (TOML's brackets, commas elsewhere).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Text {
    One(String),
    Many(Vec<String>),
}

impl Text {
    pub(super) fn is_empty(&self) -> bool {
        *self == Text::One(String::new())
    }

    /// The value as TOML writes it.
    pub(super) fn literal(&self) -> String {
        match self {
            Text::One(text) if text.parse::<i64>().is_ok() || text.parse::<bool>().is_ok() => text.clone(),
            Text::One(text) => format!("{text:?}"),
            Text::Many(items) => format!("{items:?}"),
        }
    }

    fn items(&self) -> Vec<&str> {
        match self {
            Text::One(text) => text.split(',').map(str::trim).filter(|item| !item.is_empty()).collect(),
            Text::Many(items) => items.iter().map(String::as_str).collect(),
        }
    }
}

/// How a value that is not allowed is refused; a reason is added where the allowed range does not say enough.
pub(super) struct Refused {
    pub(super) reason: Option<String>,
}

type Read<T> = Box<dyn Fn(&Text) -> Result<T, Refused>>;

/// One kind of value.
pub(super) struct Kind<T> {
    /// Follows "must be".
    pub(super) allowed: String,
    pub(super) read: Read<T>,
    /// The value as it may be shown, in TOML's writing.
    pub(super) shown: fn(&Text) -> String,
}

impl<T: 'static> Kind<T> {
    fn new(allowed: impl Into<String>, read: impl Fn(&str) -> Option<T> + 'static) -> Kind<T> {
        let read = move |text: &Text| match text {
            Text::One(text) => read(text).ok_or(Refused { reason: None }),
            Text::Many(_) => Err(Refused { reason: Some("it is a list".to_owned()) }),
        };
        Kind { allowed: allowed.into(), read: Box::new(read), shown: Text::literal }
    }

    /// The same, where nothing may be set.
    pub(super) fn optional(self) -> Kind<Option<T>> {
        let read = self.read;
        Kind {
            allowed: self.allowed,
            read: Box::new(move |text| if text.is_empty() { Ok(None) } else { read(text).map(Some) }),
            shown: self.shown,
        }
    }
}

/// A whole number within bounds.
pub(super) fn count<T>(least: T, most: T) -> Kind<T>
where
    T: FromStr + PartialOrd + Display + Copy + 'static,
{
    Kind::new(format!("a whole number from {least} to {most}"), move |text| {
        text.parse().ok().filter(|value| (least..=most).contains(value))
    })
}

/// A number with a unit of time.
pub(super) fn duration(least: &'static str, most: &'static str) -> Kind<Duration> {
    let allowed = format!("a time from {least} to {most} (units: ms, s, m, h, d)");
    Kind::new(allowed, move |text| {
        let value = time(text)?;
        (time(least)?..=time(most)?).contains(&value).then_some(value)
    })
}

/// A size: a number of bytes, or one with a unit.
pub(super) fn bytes(least: &'static str, most: &'static str) -> Kind<u64> {
    let allowed =
        format!("a size from {least} to {most} (units: KiB, MiB, GiB, TiB, KB, MB, GB, TB; none: bytes)");
    Kind::new(allowed, move |text| {
        let value = size(text)?;
        (size(least)?..=size(most)?).contains(&value).then_some(value)
    })
}

/// A percentage, as a share from 0 to 1.
pub(super) fn percent() -> Kind<f64> {
    Kind::new("a percentage from 0% to 100%", |text| {
        let value: f64 = text.strip_suffix('%')?.trim_end().parse().ok()?;
        (0.0..=100.0).contains(&value).then_some(value / 100.0)
    })
}

/// Yes or no.
pub(super) fn flag() -> Kind<bool> {
    Kind::new("true or false", truth)
}

/// One of a few words.
pub(super) fn choice<T: Copy + 'static>(choices: &'static [(&'static str, T)]) -> Kind<T> {
    let words: Vec<&str> = choices.iter().map(|(word, _)| *word).collect();
    Kind::new(format!("one of {}", words.join(", ")), move |text| {
        choices.iter().find(|(word, _)| word.eq_ignore_ascii_case(text)).map(|(_, value)| *value)
    })
}

/// An address of this host to listen on; port 0 takes a free one.
pub(super) fn address() -> Kind<SocketAddr> {
    Kind::new("an IP address and a port, such as 127.0.0.1:27018 or [::1]:27018", |text| text.parse().ok())
}

/// Where clients connect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Listen {
    /// An address of this host; port 0 takes a free one.
    Port(SocketAddr),
    /// A Unix socket.
    Socket(PathBuf),
}

impl Listen {
    /// Whether only programs of this host can get there.
    pub(crate) fn is_local(&self) -> bool {
        match self {
            Listen::Port(address) => address.ip().to_canonical().is_loopback(),
            Listen::Socket(_) => true,
        }
    }
}

impl Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Listen::Port(address) => address.fmt(f),
            Listen::Socket(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// An address of this host to listen on, or a Unix socket.
pub(super) fn listen() -> Kind<Listen> {
    let allowed = "an IP address and a port, such as 127.0.0.1:27018 or [::1]:27018, or the path of a Unix socket, \
                   such as unix:/run/dualsync.sock";
    Kind::new(allowed, |text| {
        let path = text.strip_prefix("unix:").unwrap_or(text);
        match path.starts_with('/') {
            true => Some(Listen::Socket(path.into())),
            false => text.parse().ok().map(Listen::Port),
        }
    })
}

/// A file's mode, in octal.
pub(super) fn mode() -> Kind<u32> {
    let kind = Kind::new("a file mode in octal, such as 0700 or 0770", |text| {
        u32::from_str_radix(text, 8).ok().filter(|mode| *mode <= 0o777)
    });
    // A number in TOML must not begin with a zero.
    Kind { shown: |text| format!("{:?}", text.items().concat()), ..kind }
}

/// A file of this host; a relative one starts at the working directory.
pub(super) fn file() -> Kind<PathBuf> {
    Kind::new("a file", |text| (!text.is_empty()).then(|| PathBuf::from(text)))
}

/// A name or address that others dial.
pub(super) fn host_and_port() -> Kind<String> {
    Kind::new("a host and a port, such as db.internal:27018", |text| {
        let (host, port) = text.rsplit_once(':')?;
        let port_is_one = port.parse::<u16>().is_ok_and(|port| port > 0);
        let host_is_one = !host.is_empty() && !host.contains(['/', '@', ',', ' ']);
        (port_is_one && host_is_one).then(|| text.to_owned())
    })
}

/// Listeners, each written as `listen=127.0.0.1:27018 member=db1:27017`, perhaps with `advertise=`.
pub(super) fn listeners() -> Kind<Vec<ListenerConfig>> {
    Kind {
        allowed: "tables [[proxy.listeners]] with listen (an IP address and a port), member (host:port as the replica \
                  set names it) and perhaps advertise (host:port)"
            .to_owned(),
        read: Box::new(|text| text.items().into_iter().map(listener).collect()),
        shown: |text| Text::Many(text.items().into_iter().map(str::to_owned).collect()).literal(),
    }
}

fn listener(text: &str) -> Result<ListenerConfig, Refused> {
    let refused = |reason: String| Refused { reason: Some(reason) };
    let (mut listen, mut member, mut advertise) = (None, None, None);
    for part in text.split_whitespace() {
        let (key, value) =
            part.split_once('=').ok_or_else(|| refused(format!("{part:?} is no key=value")))?;
        let wrong = || refused(format!("{key} = {value:?} is none"));
        match key {
            "listen" => {
                let address: Option<SocketAddr> = value.parse().ok();
                listen = Some(address.filter(|address| address.port() > 0).ok_or_else(wrong)?);
            }
            "member" => member = Some(Address::parse(value).ok_or_else(wrong)?),
            "advertise" => {
                let text = Text::One(value.to_owned());
                advertise = Some((host_and_port().read)(&text).map_err(|_| wrong())?);
            }
            _ => return Err(refused(format!("{key} is not known; there are: listen, member, advertise"))),
        }
    }
    match (listen, member) {
        (Some(listen), Some(member)) => Ok(ListenerConfig { listen, member, advertise }),
        (None, _) => Err(refused(format!("{text:?} lacks listen"))),
        (_, None) => Err(refused(format!("{text:?} lacks member"))),
    }
}

/// A folder of this host; a relative one starts at the working directory.
pub(super) fn folder() -> Kind<PathBuf> {
    Kind::new("a folder", |text| (!text.is_empty()).then(|| PathBuf::from(text)))
}

/// What names a sync log.
pub(super) fn log_id() -> Kind<String> {
    Kind::new("a log's id: 32 hexadecimal digits", |text| {
        let fits = text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        fits.then(|| text.to_ascii_lowercase())
    })
}

/// Patterns of namespaces.
pub(super) fn patterns() -> Kind<Vec<Pattern>> {
    Kind {
        allowed: "a list of db, db.collection or patterns with *, such as [\"shop\", \"*.sessions\"]"
            .to_owned(),
        read: Box::new(|text| {
            let read = |item: &str| {
                Pattern::parse(item).map_err(|_| Refused { reason: Some(format!("{item:?} is none")) })
            };
            text.items().into_iter().map(read).collect()
        }),
        shown: |text| Text::Many(text.items().into_iter().map(str::to_owned).collect()).literal(),
    }
}

/// A secret that a header can carry.
pub(super) fn bearer_token() -> Kind<Secret> {
    let kind = Kind::new("printable ASCII without spaces", |text| {
        let fits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic());
        fits.then(|| Secret::new(text.to_owned()))
    });
    Kind { shown: |text| if text.is_empty() { text.literal() } else { "\"***\"".to_owned() }, ..kind }
}

/// A connection string.
pub(super) fn connection_string() -> Kind<Uri> {
    Kind {
        allowed: "a connection string: mongodb+srv://host/ or mongodb://host:port,host:port/".to_owned(),
        read: Box::new(|text| match text {
            Text::One(text) => Uri::parse(text).map_err(|reason| Refused { reason: Some(reason) }),
            Text::Many(_) => Err(Refused { reason: Some("it is a list".to_owned()) }),
        }),
        shown: |text| match text {
            Text::One(text) if text.is_empty() => "\"\"".to_owned(),
            Text::One(text) => format!("{:?}", secret::shown(text)),
            Text::Many(_) => "\"***\"".to_owned(),
        },
    }
}

/// A connection string that names servers by host and port, or by their Unix sockets.
pub(super) fn servers() -> Kind<Uri> {
    let any = connection_string();
    let read = move |text: &Text| match (any.read)(text)? {
        uri if uri.hosts().len() + uri.sockets().len() > 0 => Ok(uri),
        _ => Err(Refused { reason: Some("it names none".to_owned()) }),
    };
    let allowed = "a connection string that names its servers: mongodb://host:port/ or \
                   mongodb://%2Ftmp%2Fmongodb-27017.sock"
        .to_owned();
    Kind { allowed, read: Box::new(read), shown: any.shown }
}

pub(super) fn truth(text: &str) -> Option<bool> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "1" => Some(true),
        "false" | "0" => Some(false),
        _ => None,
    }
}

fn time(text: &str) -> Option<Duration> {
    let (number, unit) = number_and_unit(text)?;
    let millis_each = match unit {
        "ms" => 1,
        "s" => 1000,
        "m" => 60 * 1000,
        "h" => 60 * 60 * 1000,
        "d" => 24 * 60 * 60 * 1000,
        _ => return None,
    };
    number.checked_mul(millis_each).map(Duration::from_millis)
}

fn size(text: &str) -> Option<u64> {
    let (number, unit) = number_and_unit(text)?;
    let bytes_each = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "kib" => 1 << 10,
        "mib" => 1 << 20,
        "gib" => 1 << 30,
        "tib" => 1 << 40,
        "kb" => 1_000,
        "mb" => 1_000_000,
        "gb" => 1_000_000_000,
        "tb" => 1_000_000_000_000,
        _ => return None,
    };
    number.checked_mul(bytes_each)
}

fn number_and_unit(text: &str) -> Option<(u64, &str)> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    Some((number.parse().ok()?, unit.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_sizes_are_read() {
        for (text, expected) in [
            ("100ms", Some(100)),
            ("5 s", Some(5000)),
            ("2m", Some(120_000)),
            ("1h", Some(3_600_000)),
            ("1d", Some(86_400_000)),
            ("100", None),
            ("ms", None),
            ("-1s", None),
            ("1.5s", None),
            ("1S", None),
            ("99999999999999999d", None),
        ] {
            assert_eq!(time(text), expected.map(Duration::from_millis), "{text}");
        }
        for (text, expected) in [
            ("0", Some(0)),
            ("512MiB", Some(512 << 20)),
            ("512 mib", Some(512 << 20)),
            ("1GB", Some(1_000_000_000)),
            ("7b", Some(7)),
            ("1M", None),
            ("", None),
            ("20000000TiB", None),
        ] {
            assert_eq!(size(text), expected, "{text}");
        }
    }

    #[test]
    fn values_are_written_as_toml() {
        for (text, expected) in
            [("5", "5"), ("true", "true"), ("a\"b", r#""a\"b""#), ("10ms", "\"10ms\""), ("", "\"\"")]
        {
            assert_eq!(Text::One(text.into()).literal(), expected);
        }
        assert_eq!(Text::Many(vec!["a".into(), "b.c".into()]).literal(), r#"["a", "b.c"]"#);
    }
}
