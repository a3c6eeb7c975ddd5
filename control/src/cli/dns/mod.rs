//! `ginnel dns`: the names the daemon knows, and a question to a name server as any program on the node would ask it.

mod show;

use super::client::{Args, Daemon, Failure, Target, finish};
use super::show::objects;
use crate::config::Config;
use crate::dns::query::{QueryError, Question, ask};
use crate::ipc::wire::ObjectKind;
use hickory_proto::rr::{Name, RecordType};
use std::net::{IpAddr, SocketAddr};
use std::process::ExitCode;
use std::str::FromStr;

/// Where a name server listens unless told otherwise (RFC 1035, section 4.2).
const PORT: u16 = 53;

/// The commands of `ginnel dns`.
#[derive(Clone, Debug, clap::Subcommand)]
pub(super) enum DnsCommand {
    /// Ask a name server, the overlay's unless told otherwise; status 1 where it has no such name or refuses
    Query(QueryArgs),
    /// Show the names the daemon knows
    List(Args),
}

/// Flags of `ginnel dns query`.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct QueryArgs {
    #[command(flatten)]
    args: Args,
    /// Name to ask for; an address is asked for its name
    name: String,
    /// Type of the records: A, AAAA, PTR, SRV, TXT, SOA, NS, ANY, … [default: A, and PTR for an address]
    #[arg(value_name = "TYPE", value_parser = record_type)]
    kind: Option<RecordType>,
    /// Name server: IP or IP:PORT [default: the first of dns.listen, else the address of the node]
    #[arg(long, short, value_name = "ADDR", value_parser = server)]
    server: Option<SocketAddr>,
    /// Ask over TCP from the start
    #[arg(long)]
    tcp: bool,
}

/// Does what `command` says.
pub(super) fn run(command: &DnsCommand) -> ExitCode {
    match command {
        DnsCommand::List(args) => objects(args, ObjectKind::Dns),
        DnsCommand::Query(args) => query(args),
    }
}

fn query(args: &QueryArgs) -> ExitCode {
    let answer = || {
        let question = question(&args.name, args.kind).map_err(Failure::Own)?;
        let server = match args.server {
            Some(server) => server,
            None => usual_server(&args.args.target)?,
        };
        ask(server, &question, args.tcp).map_err(|error: QueryError| Failure::Own(error.to_string()))
    };
    match answer() {
        Ok(answer) => {
            let text = if args.args.json { show::json(&answer) } else { show::words(&answer) };
            let printed = finish(Ok(text));
            if answer.is_positive() { printed } else { ExitCode::FAILURE }
        }
        Err(failure) => failure.report(),
    }
}

/// Where the overlay's name server is: where the configuration has it, where the daemon says, or on the address of the node.
fn usual_server(target: &Target) -> Result<SocketAddr, Failure> {
    if let Some(server) = Config::read_default().unwrap_or_default().dns.listen.first() {
        return Ok(*server);
    }
    let status = Daemon::connect(target)?.status()?;
    let none = "the overlay is not set up, so it has no name server: name one with --server";
    let served = status.dns.and_then(|dns| {
        let at_node = dns.listening.iter().find(|at| Some(at.ip()) == status.node_ip);
        at_node.or(dns.listening.first()).copied()
    });
    let usual = || status.node_ip.map(|ip| SocketAddr::new(ip, PORT));
    served.or_else(usual).ok_or_else(|| Failure::Own(none.to_owned()))
}

fn question(name: &str, kind: Option<RecordType>) -> Result<Question, String> {
    if let (Ok(ip), None | Some(RecordType::PTR)) = (name.parse::<IpAddr>(), kind) {
        return Ok(Question { name: Name::from(ip), kind: RecordType::PTR });
    }
    let mut found = Name::from_utf8(name).map_err(|error| format!("{name:?} is no name: {error}"))?;
    // Nothing is added to a name here, with a final dot or without.
    found.set_fqdn(true);
    Ok(Question { name: found, kind: kind.unwrap_or(RecordType::A) })
}

fn record_type(text: &str) -> Result<RecordType, String> {
    let known = RecordType::from_str(&text.to_ascii_uppercase()).ok();
    known.ok_or_else(|| {
        format!("{text:?} is no type of records: A, AAAA, PTR, SRV, TXT, SOA, NS, CNAME, MX, ANY are some")
    })
}

fn server(text: &str) -> Result<SocketAddr, String> {
    let alone = |text: &str| text.parse::<IpAddr>().ok().map(|ip| SocketAddr::new(ip, PORT));
    let server = text.parse().ok().or_else(|| alone(text));
    server.ok_or_else(|| format!("{text:?} is neither IP nor IP:PORT"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_for() {
        let asked = |name: &str, kind| question(name, kind).map(|question| (question.name.to_string(), question.kind));
        assert_eq!(asked("web.overlay", None), Ok(("web.overlay.".into(), RecordType::A)));
        assert_eq!(asked("web.overlay.", Some(RecordType::TXT)), Ok(("web.overlay.".into(), RecordType::TXT)));
        assert_eq!(asked("10.0.0.9", None), Ok(("9.0.0.10.in-addr.arpa.".into(), RecordType::PTR)));
        let v6 = asked("fd00::1", Some(RecordType::PTR)).unwrap().0;
        assert!(v6.starts_with("1.0.0.0.") && v6.ends_with(".d.f.ip6.arpa."), "{v6}");
        assert_eq!(asked(".", None), Ok((".".into(), RecordType::A)));
        for wrong in ["a..b", &"x".repeat(64), &"a.".repeat(200)] {
            assert!(asked(wrong, None).unwrap_err().contains("is no name"), "{wrong}");
        }
    }

    #[test]
    fn types_and_servers_are_taken_as_people_write_them() {
        assert_eq!(record_type("aaaa"), Ok(RecordType::AAAA));
        assert!(record_type("quux").unwrap_err().contains("SRV"));
        assert_eq!(server("10.0.0.1").unwrap().to_string(), "10.0.0.1:53");
        assert_eq!(server("fd00::1").unwrap().to_string(), "[fd00::1]:53");
        assert_eq!(server("[fd00::1]:5353").unwrap().port(), 5353);
        assert!(server("localhost").is_err());
    }
}
