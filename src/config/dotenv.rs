//! `.env` as Node's dotenv reads it, since the application and dualsync may share the file.
//!
//! `NAME=value`, `export` before it, quotes `'`, `"` and `` ` `` (over several lines too), `#` comments. No `$`
//! expansion: a password may contain one. Lines that are none are somebody else's and skipped.

/// The variables in the order of the file.
pub(super) fn parse(text: &str) -> Vec<(String, String)> {
    let mut variables = Vec::new();
    let mut rest = text.trim_start_matches('\u{feff}');
    while !rest.is_empty() {
        let line_end = rest.find('\n').unwrap_or(rest.len());
        let name = rest[..line_end].find('=').and_then(|at| Some((at, name(&rest[..at])?)));
        let Some((equals, name)) = name else {
            rest = next_line(&rest[line_end..]);
            continue;
        };
        let value = rest[equals + 1..].trim_start_matches([' ', '\t']);
        let (value, behind) = quoted(value).unwrap_or_else(|| plain(value));
        variables.push((name.to_owned(), value));
        rest = next_line(behind);
    }
    variables
}

fn name(text: &str) -> Option<&str> {
    let text = text.trim();
    let name = text.strip_prefix("export ").unwrap_or(text).trim_start();
    let is_one = !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b));
    is_one.then_some(name)
}

/// A value in quotes and what follows; `\"` does not end it, and stays as it is.
fn quoted(text: &str) -> Option<(String, &str)> {
    let quote = text.chars().next().filter(|first| matches!(first, '\'' | '"' | '`'))?;
    let inner = &text[1..];
    let is_end = |at: &usize| !inner[..*at].ends_with('\\');
    let end = inner.match_indices(quote).map(|(at, _)| at).find(is_end)?;
    let value = &inner[..end];
    let value = if quote == '"' { value.replace("\\n", "\n").replace("\\r", "\r") } else { value.to_owned() };
    Some((value, &inner[end + 1..]))
}

fn plain(text: &str) -> (String, &str) {
    let (line, behind) = text.split_at(text.find('\n').unwrap_or(text.len()));
    (line.split('#').next().unwrap_or_default().trim().to_owned(), behind)
}

fn next_line(text: &str) -> &str {
    text.split_once('\n').map_or("", |(_, next)| next)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read_as_node_reads_them() {
        for (text, expected) in [
            ("A=1", vec![("A", "1")]),
            ("A=1\r\nB=2\r\n", vec![("A", "1"), ("B", "2")]),
            ("\u{feff}A=1", vec![("A", "1")]),
            ("  export A = 1  ", vec![("A", "1")]),
            ("A=two words # comment", vec![("A", "two words")]),
            ("A='x # y' # z\nB=2", vec![("A", "x # y"), ("B", "2")]),
            ("A=\"x\\ny\"", vec![("A", "x\ny")]),
            ("A='x\\ny'", vec![("A", "x\\ny")]),
            ("A=`it's \"so\"`", vec![("A", "it's \"so\"")]),
            ("A=\"one\ntwo\"\nB=2", vec![("A", "one\ntwo"), ("B", "2")]),
            ("A=\"say \\\"x\\\"\"", vec![("A", "say \\\"x\\\"")]),
            ("A='open\nB=2", vec![("A", "'open"), ("B", "2")]),
            ("A=p$SS${B}", vec![("A", "p$SS${B}")]),
            ("A=a=b?c=d", vec![("A", "a=b?c=d")]),
            ("A=\nB=2", vec![("A", ""), ("B", "2")]),
            ("# A=1\n\nnonsense\n=x\na b=c\nB=2", vec![("B", "2")]),
            ("A=é\nB='ü'", vec![("A", "é"), ("B", "ü")]),
        ] {
            let read = parse(text);
            let read: Vec<(&str, &str)> = read.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
            assert_eq!(read, expected, "{text:?}");
        }
    }
}
