//! Writes the seeds of all corpora, from the examples of the contract, the example configuration, packets as kernels hand
//! them over, and short stories in the words of each target:
//!
//! ```sh
//! cargo run --manifest-path fuzz/Cargo.toml --example seeds
//! ```
//!
//! Seeds are named `seed-…`; what a fuzzer adds is named by its hash and is left alone.

use ginnel_backends::fuzzing::write_virtio_header;
use ginnel_backends::mem::packet::{self, Flow};
use ginnel_control::config;
use ginnel_control::fuzzing::{converse, examples};
use std::error::Error;
use std::fs;
use std::path::Path;

type Seeds = Vec<(String, Vec<u8>)>;

fn main() -> Result<(), Box<dyn Error>> {
    let corpora: [(&str, Seeds); 10] = [
        ("config", configurations()),
        ("journal", journals()),
        ("members", members()),
        ("merging", mergings()),
        ("names", names()),
        ("orders", orders()),
        ("routes", routes()),
        ("strangers", strangers()),
        ("superpackets", superpackets()),
        ("uapi", uapi()),
    ];
    for (target, seeds) in corpora {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target);
        fs::create_dir_all(&dir)?;
        for (name, bytes) in seeds {
            fs::write(dir.join(format!("seed-{name}")), bytes)?;
        }
    }
    Ok(())
}

fn text(name: impl ToString, text: impl Into<String>) -> (String, Vec<u8>) {
    (name.to_string(), text.into().into_bytes())
}

/// A piece of an input behind its length.
fn piece(bytes: &[u8]) -> Vec<u8> {
    let length = u16::try_from(bytes.len()).unwrap_or(u16::MAX);
    [&length.to_le_bytes(), bytes].concat()
}

/// The example, each section with its keys in force, and mistakes of each kind.
fn configurations() -> Seeds {
    let example = config::example();
    let uncomment = |line: &str| {
        let is_key = line.starts_with('#') && !line.starts_with("# ");
        format!("{}\n", if is_key { &line[1..] } else { line })
    };
    let in_force: String = example.lines().map(uncomment).collect();
    let bare: String = in_force
        .lines()
        .filter(|line| !line.starts_with('#') && !line.is_empty())
        .map(|line| format!("{line}\n"))
        .collect();
    let mut seeds = vec![text("example", example), text("in-force", in_force), text("bare", bare.clone())];
    let sections = bare.split("\n[").enumerate();
    seeds.extend(sections.map(|(n, section)| {
        let head = if n == 0 { "" } else { "[" };
        text(format!("section-{n}"), format!("{head}{section}\n"))
    }));
    let mistakes = [
        "dat_dir = \"/x\"\n[ipc]\nconections = 5\nconnections = 5\nmode = \"0999\"\n",
        "[access]\nadmin = [\"user:root\", \"gr\u{fc}\u{df}e\"]\n[log]\nformat = \"jsn\"\nlevel = \"=,=\"\n",
        "data_dir = \"/x\"\ndata_dir = \"/y\"\n[ipc\n",
        "[metrics]\nlisten = \"0.0.0.0:1\"\n",
        "[device]\noffload_off = [\"tun_udp\", 3]\nworkers = -1\n",
        "ipc = 3\n[[access]]\n",
    ];
    seeds.extend(mistakes.iter().enumerate().map(|(n, mistake)| text(format!("mistakes-{n}"), *mistake)));
    seeds
}

/// The journal of a node that was asked for all the examples, whole, and what becomes of it.
fn journals() -> Seeds {
    let requests: Vec<u8> = frames(&useful_requests());
    let whole = String::from_utf8(converse(&requests).journal).expect("a journal is text");
    let bare: Vec<&str> = whole.lines().map(|line| &line[17..]).collect();
    let mut seeds = vec![text("whole", format!("\0{whole}")), text("bare", bare.join("\n"))];
    let head = bare[0];
    seeds.extend(bare[1..].iter().enumerate().map(|(n, line)| {
        let line = line.replacen(&format!("\"n\":{}", n + 1), "\"n\":1", 1).replacen(
            &format!("\"after\":{n}"),
            "\"after\":0",
            1,
        );
        text(format!("one-{n}"), format!("{head}\n{line}"))
    }));
    seeds.push(text("torn", format!("\0{}", &whole[..whole.len() - 20])));
    seeds.push(text(
        "damaged",
        bare.iter().enumerate().filter(|(n, _)| *n != 3).map(|(_, line)| format!("{line}\n")).collect::<String>(),
    ));
    seeds.push(text("newer", head.replace("\"version\":1", "\"version\":2")));
    seeds.push(text("headless", bare[1..].join("\n")));
    seeds.push(text("not-one", "\0{}\n\n\0"));
    seeds
}

/// Requests that lead somewhere in a node without a kernel.
fn useful_requests() -> Vec<&'static str> {
    examples().into_iter().filter(|line| line.contains("\"request\"") && !line.contains("shutdown")).collect()
}

fn frames(lines: &[&str]) -> Vec<u8> {
    let frame = |line: &&str| [&u32::try_from(line.len()).unwrap_or(0).to_le_bytes(), line.as_bytes()].concat();
    lines.iter().flat_map(frame).collect()
}

fn orders() -> Seeds {
    let requests = useful_requests();
    let mut seeds: Seeds = requests.iter().enumerate().map(|(n, line)| text(format!("example-{n}"), *line)).collect();
    let setup =
        requests.iter().find(|line| line.contains("setup_global_overlay")).expect("an example sets the overlay up");
    let story = |op: &str| {
        let of_op = requests.iter().filter(|line| line.contains(op)).copied();
        [*setup].into_iter().chain(of_op).collect::<Vec<_>>().join("\n")
    };
    for op in ["peer", "allowed_ip", "service_overlay", "allocate_ip", "container", "dns", "prune"] {
        seeds.push(text(format!("story-{op}"), story(op)));
    }
    let own = [
        r#"{"op":"hello","client":"fuzz/1"}"#,
        r#"{"op":"subscribe","kinds":["peer_health_changed","health_changed"],"after":"9f03c2ab-41"}"#,
        r#"{"op":"list","kind":"peers","limit":2}"#,
        r#"{"op":"list","kind":"leases","after":"10.0.0.1"}"#,
        r#"{"op":"health"}"#,
        r#"{"op":"begin_sync","epoch":7,"kinds":["services","leases"]}"#,
        r#"{"op":"end_sync","epoch":7}"#,
        r#"{"op":"gc","kinds":["leases"],"keep":[]}"#,
        r#"{"op":"unsubscribe"}"#,
    ];
    let own: Vec<_> =
        own.iter().zip(1..).map(|(body, id)| format!(r#"{{"frame":"request","id":{id},"request":{body}}}"#)).collect();
    seeds.push(text("own", own.join("\n")));
    seeds.push(text(
        "everything",
        [requests.join("\n"), own.join("\n"), r#"{"frame":"request","id":99,"request":{"op":"shutdown"}}"#.into()]
            .join("\n"),
    ));
    seeds.push(text("mistakes", "{\"frame\":\"request\",\"id\":3,\"request\":{\"op\":\"fly\"}}\n{\"frame\":\"request\",\"id\":4,\"request\":{\"op\":\"release_ip\"}}\n[\"request\",1,{\"op\":\"status\"}]\n{\"frame\":\"event\"}\n{}"));
    seeds.push(("raw".into(), [&[0], &frames(&requests)[..]].concat()));
    seeds.push(("raw-too-long".into(), b"\0\xff\xff\xff\xff{".to_vec()));
    seeds
}

/// Queries as resolvers send them, with and without EDNS, and what is none.
fn names() -> Seeds {
    let query = |name: &str, kind: u16, edns: Option<u16>| {
        let mut bytes = vec![0, 0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, u8::from(edns.is_some())];
        for label in name.split('.') {
            bytes.push(u8::try_from(label.len()).unwrap_or(63));
            bytes.extend(label.bytes());
        }
        bytes.push(0);
        bytes.extend(kind.to_be_bytes());
        bytes.extend([0, 1]);
        if let Some(room) = edns {
            bytes.extend([0, 0, 41]);
            bytes.extend(room.to_be_bytes());
            bytes.extend([0; 6]);
        }
        bytes
    };
    let asked = [
        ("web.internal", 1),
        ("web.internal", 28),
        ("WEB.Internal", 255),
        ("many.internal", 1),
        ("db", 1),
        ("nobody.internal", 1),
        ("internal", 6),
        ("_web._tcp.internal", 33),
        ("note.internal", 16),
        ("2.0.200.10.in-addr.arpa", 12),
        ("example.com", 1),
        ("localhost", 1),
    ];
    let mut seeds = Seeds::new();
    for (name, kind) in asked {
        seeds.push((format!("{}-{kind}", name.to_lowercase()), query(name, kind, None)));
        seeds.push((format!("{}-{kind}-edns", name.to_lowercase()), query(name, kind, Some(1_232))));
    }
    let mut foreign = query("web.internal", 1, None);
    foreign[0] = 1;
    seeds.push(("foreign-client".into(), foreign));
    let mut answer = query("web.internal", 1, None);
    answer[3] |= 0x80;
    seeds.push(("an-answer".into(), answer));
    let mut update = query("web.internal", 1, None);
    update[3] |= 5 << 3;
    seeds.push(("an-update".into(), update));
    let whole = query("web.internal", 1, Some(512));
    seeds.push(("cut".into(), whole[..20].to_vec()));
    seeds.push(("pointing-at-itself".into(), [&whole[..13], &[0xc0, 12, 0, 1, 0, 1]].concat()));
    seeds
}

fn uapi() -> Seeds {
    let key = |n: u8| format!("{n:02x}").repeat(32);
    let (one, two, own) = (key(1), key(2), key(3));
    let stories = [
        "get=1\n\n".to_owned(),
        format!("set=1\nprivate_key={own}\nlisten_port=51820\nfwmark=0xca6c\nreplace_peers=true\n\nget=1\n\n"),
        format!(
            "set=1\npublic_key={one}\npreshared_key={two}\nendpoint=192.0.2.1:51820\npersistent_keepalive_interval=25\nreplace_allowed_ips=true\nallowed_ip=10.0.0.0/8\nallowed_ip=fd00::/64\nprotocol_version=1\n\n"
        ),
        format!(
            "set=1\npublic_key={one}\nallowed_ip=10.0.0.0/8\npublic_key={two}\nallowed_ip=10.0.0.0/8\npublic_key={one}\nallowed_ip=-10.0.0.0/8\nallowed_ip=::/0\n\n"
        ),
        format!(
            "set=1\npublic_key={one}\nupdate_only=true\nallowed_ip=0.0.0.0/0\n\nset=1\npublic_key={one}\nremove=true\n\n"
        ),
        format!(
            "set=1\npublic_key={one}\nendpoint=[2001:db8::1]:1\nendpoint=[fe80::1%1]:2\nendpoint=[fe80::1%lo]:3\n\n"
        ),
        format!("set=1\nprivate_key={}\npublic_key={one}\npreshared_key={}\n\n", key(0), key(0)),
        format!("set=1\nlisten_port=99999\n\nset=1\nnonsense\n\nset=1\npublic_key={}\n\n", "zz".repeat(32)),
        format!("set=1\n{}\n\nget=1\nmore\n\n", "x".repeat(5_000)),
        "set=1\nlisten_port=7\n".to_owned(),
        "GET / HTTP/1.1\r\n\r\n".to_owned(),
        format!(
            "set=1\npublic_key={one}\nallowed_ip=10.1.2.3/8\npublic_key={two}\nallowed_ip=10.9.9.9/8\n\nset=1\nreplace_peers=true\npublic_key={two}\nreplace_allowed_ips=true\nallowed_ip=10.0.0.0/8\n\n"
        ),
    ];
    stories.into_iter().enumerate().map(|(n, story)| text(n, story)).collect()
}

/// Flows and their packets, of both families.
fn flows() -> [Flow; 2] {
    [Flow::between("10.0.0.5", "10.1.0.6"), Flow::between("fd00:0::5", "fd00:1::6")]
}

fn superpackets() -> Seeds {
    let mut seeds = Seeds::new();
    for (family, flow) in flows().into_iter().enumerate() {
        let payload = packet::pattern(3_333, 1);
        for (kind, (unit, meta)) in [
            ("tcp", packet::tcp_super(flow, 9, packet::PSH_ACK, &payload, 1_000)),
            ("udp", packet::udp_super(flow, &payload, 1_000)),
            ("tcp-small", packet::tcp_super(flow, u32::MAX, packet::ACK, &payload[..100], 7)),
            ("one-udp", (packet::udp(flow, b"hello"), Default::default())),
            ("one-tcp", (packet::tcp(flow, 1, packet::ACK, b"hello"), Default::default())),
            ("one-icmp", (packet::raw(flow, 1, &[8, 0, 0, 0, 0, 0, 0, 0]), Default::default())),
        ] {
            let header = write_virtio_header(&meta, &unit);
            let whole = [&[0x81], &header[..], &piece(&unit), &[0, 0]].concat();
            seeds.push((format!("{kind}-{family}"), whole.clone()));
            // Twice, on both queues, the second with more behind it than its header says.
            let longer = [&[0x80], &header[..], &piece(&unit), &1_234_u16.to_le_bytes()].concat();
            seeds.push((format!("{kind}-{family}-twice"), [whole, longer].concat()));
        }
    }
    seeds.push((
        "hostile-header".into(),
        [&[0x80, 1, 1, 0xff, 0xff, 0, 0, 0xff, 0xff, 0xff, 0xff], &piece(&packet::udp(flows()[0], b"x"))[..]].concat(),
    ));
    seeds
}

fn members() -> Seeds {
    let step = |what: u8, which: u8, rest: &[u8]| [&[what, which], rest].concat();
    let from = |peer: u8, v6: bool| {
        let flow = match v6 {
            false => Flow::between(&format!("10.{peer}.0.5"), "10.9.0.1"),
            true => Flow::between(&format!("fd00:{peer}::5"), "fd00:9::1"),
        };
        packet::tcp(flow, 1, packet::ACK, &packet::pattern(200, 1))
    };
    let greet: Vec<u8> = (0..3).flat_map(|peer| step(3, peer, &[0, 0, 1, 0, 0])).collect();
    let settle = step(6, 0, &[1, 0]);
    let data = |peer: u8, verdict: u8, inner: &[u8]| step(1, peer, &[&[verdict], &piece(inner)[..]].concat());
    let train = |peer: u8, count: u8, inner: &[u8]| step(2, peer, &[&[count, 0], &piece(inner)[..]].concat());
    let told = |peer: u8, rest: &[u8]| step(7, peer, rest);
    let stories: Vec<(&str, Vec<Vec<u8>>)> = vec![
        ("nothing", vec![]),
        ("greetings", vec![greet.clone(), settle.clone()]),
        (
            "data",
            vec![
                greet.clone(),
                settle.clone(),
                data(0, 0, &from(0, false)),
                data(1, 0, &from(1, true)),
                settle.clone(),
            ],
        ),
        ("keepalives", vec![greet.clone(), settle.clone(), data(0, 0, &[]), train(1, 9, &[]), settle.clone()]),
        ("train", vec![greet.clone(), settle.clone(), train(0, 60, &from(0, false)), train(1, 64, &from(1, true))]),
        (
            "foreign-source",
            vec![greet.clone(), settle.clone(), data(0, 0, &from(1, false)), data(2, 0, &from(0, true))],
        ),
        (
            "refused",
            vec![
                greet.clone(),
                settle.clone(),
                data(0, 1, &from(0, false)),
                data(0, 2, &from(0, false)),
                step(3, 1, &[0, 0, 0, 0, 1]),
                step(3, 1, &[0, 0, 0, 0, 2]),
                step(3, 1, &[0, 0, 0, 0, 3]),
            ],
        ),
        (
            "answers",
            vec![
                step(5, 0, &piece(&packet::udp(Flow::between("10.9.0.1", "10.0.0.5"), b"ask"))),
                settle.clone(),
                step(4, 0, &[0]),
                step(0x84, 0, &[0]),
                settle.clone(),
            ],
        ),
        (
            "time",
            vec![
                greet.clone(),
                step(6, 7, &[0xff, 0xff]),
                step(6, 7, &[0xff, 0xff]),
                data(0, 0, &from(0, false)),
                settle.clone(),
            ],
        ),
        (
            "preshared",
            vec![
                greet.clone(),
                settle.clone(),
                told(0, &[2, 9]),
                data(0, 0, &from(0, false)),
                settle.clone(),
                told(0, &[2, 0]),
                settle.clone(),
            ],
        ),
        (
            "removed",
            vec![
                greet.clone(),
                settle.clone(),
                told(1, &[6]),
                data(1, 0, &from(1, false)),
                settle.clone(),
                told(1, &[7]),
                settle.clone(),
            ],
        ),
        (
            "rerouted",
            vec![
                greet.clone(),
                settle.clone(),
                told(1, &[5, 16, 10, 0, 0, 0]),
                data(1, 0, &from(0, false)),
                data(0, 0, &from(0, false)),
                settle.clone(),
            ],
        ),
        (
            "no-identity",
            vec![
                greet.clone(),
                settle.clone(),
                told(0, &[0]),
                data(0, 0, &from(0, false)),
                greet.clone(),
                told(0, &[1]),
                settle.clone(),
            ],
        ),
        (
            "keepalive-set",
            vec![greet.clone(), told(0, &[4, 1, 0]), step(6, 3, &[0, 4]), told(1, &[3, 77]), settle.clone()],
        ),
        (
            "roaming",
            vec![
                greet.clone(),
                settle.clone(),
                step(0x81, 0x80, &[&[0], &piece(&from(0, false))[..]].concat()),
                settle.clone(),
            ],
        ),
        (
            "marked",
            vec![
                greet.clone(),
                settle.clone(),
                step(1, 0xc0, &[&[0], &piece(&from(0, false))[..]].concat()),
                settle.clone(),
            ],
        ),
        (
            "other-protocols",
            vec![
                step(0, 0, &piece(&[0, 1, 0, 0, 0x21, 0x12, 0xa4, 0x42])),
                step(0, 0x10, &piece(&[4, 0, 0, 0, 1, 2, 3])),
                step(0, 0, &piece(&[0; 3_000])),
            ],
        ),
    ];
    let mut seeds: Seeds =
        stories.iter().map(|(name, steps)| ((*name).to_owned(), [&[0], &steps.concat()[..]].concat())).collect();
    seeds.extend(
        stories[2..6]
            .iter()
            .map(|(name, steps)| (format!("{name}-without-offloads"), [&[0xff], &steps.concat()[..]].concat())),
    );
    seeds
}

fn strangers() -> Seeds {
    let raw = |bytes: &[u8]| [&[0, 0], &piece(bytes)[..]].concat();
    let typed = |kind: u8, len: usize| raw(&[&[kind, 0, 0, 0], &vec![7; len - 4][..]].concat());
    let changed = |which: u8, at: u8| vec![1, which, at, 1];
    let mut seeds: Seeds = [(1, 148), (2, 92), (3, 64), (4, 32), (4, 1_452), (1, 147), (2, 93), (4, 31)]
        .map(|(kind, len)| (format!("type-{kind}-{len}"), typed(kind, len)))
        .to_vec();
    seeds.push(("stun".into(), raw(&[0, 1, 0, 0, 0x21, 0x12, 0xa4, 0x42])));
    seeds.push(("replay".into(), [[2, 0], [2, 1], [2, 0], [2, 3], [0x82, 3]].concat()));
    seeds.push(("both-workers".into(), [[2, 0x80], [0x82, 0x81], [2, 2]].concat()));
    seeds.push(("changed".into(), (0..40).flat_map(|at| changed(at % 4, at)).collect()));
    seeds.push(("changed-then-real".into(), [changed(0, 20), vec![2, 0], changed(1, 4), vec![2, 1]].concat()));
    seeds.push(("late".into(), [&[2, 0, 3, 0, 0xff, 0xff, 3, 0, 0xff, 0xff][..], &[2, 1]].concat()));
    seeds.push(("flood".into(), typed(1, 148).repeat(30)));
    seeds
}

fn mergings() -> Seeds {
    // Shape, MTU; then per unit: shape, segment, payload, port, sequence, fill, TOS, ID, flags.
    let unit = |shape: u8, segment: u16, payload: u16, port: u8, flags: u8| {
        [
            &[shape],
            &(segment - 1).to_le_bytes()[..],
            &(payload - 1).to_le_bytes(),
            &[port, 0xff, 0xff, 0xff, 0xfe, 3, 0, 1, 0, flags],
        ]
        .concat()
    };
    let mut seeds = Seeds::new();
    for shape in [0_u8, 1, 2, 3, 4, 0x30, 0x31, 0xa4] {
        for (n, (segment, payload)) in [(1_000, 3_333), (1_400, 1_400), (7, 100), (536, 15_000)].into_iter().enumerate()
        {
            let one = [&[0, 0x8c, 5], &unit(shape, segment, payload, 0, 0x10)[..]].concat();
            seeds.push((format!("one-{shape}-{n}"), one));
        }
    }
    for (n, flags) in [0x11_u8, 0x18, 0x90, 0x50, 0x02, 0x04, 0x30].into_iter().enumerate() {
        seeds.push((format!("flags-{n}"), [&[0, 0, 0], &unit(4, 100, 350, 1, flags)[..]].concat()));
    }
    for head in [3, 0x83] {
        let units = [
            unit(0, 100, 900, 0, 0x10),
            unit(0, 100, 700, 0, 0x10),
            unit(3, 200, 2_000, 1, 0x18),
            unit(5, 50, 600, 2, 0x10),
        ];
        seeds.push((
            format!("mix-{head}"),
            [&[head, 0, 0], &units.concat()[..], &[0, 2, 1, 3, 2, 1, 3, 4, 0, 1, 1, 9, 2, 15]].concat(),
        ));
    }
    seeds
}

fn routes() -> Seeds {
    // What, shape, length, address or change of it.
    let v4 = |what: u8, length: u8, address: [u8; 4]| [&[what, 0x40, length][..], &address].concat();
    let near = |what: u8, shape: u8, length: u8, change: u8| vec![what, shape, length, change];
    let v6 = |what: u8, length: u8| {
        [&[what, 0xc0, length][..], &[0xfd, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7]].concat()
    };
    let nested: Vec<u8> = (0..=32).flat_map(|length| v4(length << 4, length, [10, 64, 1, 200])).collect();
    let hosts: Vec<u8> = [v4(0, 24, [10, 0, 0, 0])]
        .concat()
        .into_iter()
        .chain((0..60).flat_map(|n| near(n << 4, 0, 32, n ^ n.wrapping_sub(1))))
        .collect();
    let nested_v6: Vec<u8> = (0..=128).step_by(6).flat_map(|length| v6(length << 4, length)).collect();
    let buckets: Vec<u8> =
        v4(0, 20, [192, 168, 0, 0]).into_iter().chain((0..12).flat_map(|n| near(n << 4, 4, 26 + n % 7, n))).collect();
    let removals: Vec<u8> = (0..20).flat_map(|n| [6, 0x40, 32, 10, 0, 0, 0, n]).collect();
    let all_of: Vec<u8> = (0..8).flat_map(|n| near(7 | n << 4, 0, 32, 0)).collect();
    [
        ("nested", nested.clone()),
        ("hosts", hosts.clone()),
        ("nested-v6", nested_v6.clone()),
        ("buckets", buckets.clone()),
        ("hosts-removed", [hosts.clone(), removals.clone()].concat()),
        ("nested-removed", [nested.clone(), removals].concat()),
        ("all-of", [hosts.clone(), all_of.clone()].concat()),
        ("both", [nested, nested_v6, all_of].concat()),
        ("held-by", [hosts, near(5, 0, 32, 0), near(0x15, 0, 32, 1), near(4, 0, 32, 0)].concat()),
        ("taken-over", [v4(0, 8, [10, 0, 0, 0]), v4(0x10, 8, [10, 1, 2, 3]), near(4, 0, 8, 0), buckets].concat()),
    ]
    .map(|(name, bytes)| (name.to_owned(), bytes))
    .to_vec()
}
