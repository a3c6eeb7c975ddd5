use super::*;
use crate::temp_dir::TempDir;

fn problems(text: &str) -> Vec<String> {
    Config::parse(text).unwrap_err().iter().map(ToString::to_string).collect()
}

/// The example with every key in force.
fn in_force() -> String {
    let uncomment = |line: &str| {
        let is_key = line.starts_with('#') && !line.starts_with("# ");
        format!("{}\n", if is_key { &line[1..] } else { line })
    };
    example().lines().map(uncomment).collect()
}

#[test]
fn the_example_says_nothing_and_every_key_in_it_is_sound() {
    assert_eq!(Config::parse(&example()).unwrap(), Config::default());
    let config = Config::parse(&in_force()).unwrap_or_else(|problems| panic!("{problems:?}"));
    assert_eq!(config.ipc.mode, Some(0o660));
    assert_eq!(config.metrics.listen, Some(MetricsListen::Tcp("127.0.0.1:9586".parse().unwrap())));
    assert_eq!(config.access.admin.map(|list| list.len()), Some(2));
    assert_eq!((config.device.workers, config.log.format), (Some(0), Some(LogFormat::Auto)));
}

#[test]
fn every_key_is_read_to_a_place_of_its_own() {
    for key in KEYS {
        let (section, name) = key.name.rsplit_once('.').unwrap_or(("", key.name));
        let head = if section.is_empty() { String::new() } else { format!("[{section}]\n") };
        let other = match key.value {
            "[]" if key.name.starts_with("access") => r#"["user:1"]"#,
            "[]" if key.name == "device.offload_off" => r#"["tun_udp"]"#,
            "[]" => r#"["127.0.0.9"]"#,
            "false" => "true",
            value => value,
        };
        let mut config = Config::parse(&format!("{head}{name} = {other}\n")).unwrap();
        assert_eq!(config.needs_restart(&Config::default()).len(), usize::from(!key.reloads), "{}", key.name);
        assert_eq!(std::mem::take(&mut config.said).into_iter().collect::<Vec<_>>(), [(key.name, other.to_owned())]);
        assert_ne!(config, Config::default(), "{} is not kept", key.name);
        // A wrong kind of value is told with the name of the key and its place.
        let told = problems(&format!("{head}{name} = 1979-05-27\n"));
        let place = format!("{}:{}: {}: ", head.lines().count() + 1, name.len() + 4, key.name);
        assert!(told.len() == 1 && told[0].starts_with(&place), "{told:?}");
    }
}

#[test]
fn all_mistakes_are_told_at_once_with_their_places() {
    let text = "\
dat_dir = \"/x\"
data_dir = \"relative\"

[ipc]
conections = 5
connections = 5
mode = \"0999\"
workers = 2
log = 3

[access]
admin = [\"user:root\", \"grüße\", \"root\"]

[dnss]
ttl = 1

[log]
format = \"jsn\"
level = \"=,=\"

[metrics]
listen = \"0.0.0.0:1\"
";
    let told = problems(text);
    let expected = [
        "1:1: there is no key dat_dir; did you mean data_dir?",
        "2:12: data_dir: the path relative is relative",
        "5:1: there is no key ipc.conections; did you mean ipc.connections?",
        "6:15: ipc.connections: a number from 16 to 65536 is wanted",
        "7:8: ipc.mode: \"0999\" is no mode",
        "8:1: there is no key ipc.workers; did you mean device.workers?",
        "9:1: there is no key ipc.log",
        "12:23: access.admin: \"grüße\" is neither",
        "14:2: there is no key dnss; did you mean dns?",
        "18:10: log.format: \"jsn\" is none of auto, text, json, journald; did you mean \"json\"?",
        "19:9: log.level: ",
        "22:10: metrics.listen: metrics are served on the loopback only",
    ];
    assert_eq!(told.len(), expected.len(), "{told:#?}");
    for (told, expected) in told.iter().zip(expected) {
        assert!(told.starts_with(expected), "{told}\n{expected}");
    }
}

#[test]
fn broken_toml_is_told_with_its_place() {
    for (text, place) in [
        ("x = \n", "1:"),
        ("data_dir = \"/x\"\n[ipc\n", "2:"),
        ("data_dir = \"/x\"\ndata_dir = \"/y\"\n", "2:1:"),
        ("\n\u{e4} = 1\n", "2:1:"),
        ("data_dir = \"/x", "1:"),
        ("[ipc]\n[ipc]\n", "2:"),
    ] {
        let told = problems(text);
        assert!(told[0].starts_with(place), "{text:?}: {told:?}");
    }
    assert!(problems("ipc = 3\n")[0].contains("ipc is a section"));
}

#[test]
fn columns_count_characters() {
    let text = "# ä\ndata_dir = \"äöü\" # x";
    assert_eq!(problems(text)[0].split(": ").next(), Some("2:12"));
    assert_eq!(Problem::at("aä\nöb", &(6..7), "m"), Problem { line: 2, column: 2, message: "m".into() });
    // Neither beyond the end nor inside a character.
    assert_eq!(Problem::at("ä", &(9..9), "m").column, 2);
    assert_eq!(Problem::at("ä", &(1..2), "m").column, 1);
}

#[test]
fn files_are_read_or_the_reason_is_told() {
    let dir = TempDir::new();
    let path = dir.join("c.toml");
    std::fs::write(&path, "[ipc]\nconnections = 100\n").unwrap();
    assert_eq!(Config::read(&path).unwrap().ipc.connections, Some(100));
    std::fs::write(&path, "a = 1\n b = 2").unwrap();
    let told = Config::read(&path).unwrap_err().to_string();
    let lines: Vec<_> = told.lines().collect();
    assert_eq!(lines.len(), 2);
    assert!(lines[1].starts_with(&format!("{}:2:2: there is no key b", path.display())), "{told}");
    assert!(matches!(Config::read(&dir.join("none")), Err(ConfigError::Unreadable { .. })));
    std::fs::write(&path, vec![b'#'; 2 << 20]).unwrap();
    assert!(Config::read(&path).unwrap_err().to_string().contains("no configuration"));
}

#[test]
fn names_records_and_servers_are_checked() {
    let wrong = [
        ("listen = [\"0.0.0.0\"]", "names are answered at addresses of their own"),
        ("zones = [\"a..b\"]", "\"a..b\" is no name: each part"),
        ("split = [\"corp.example\"]", "a domain and behind it"),
        ("split = [\"corp.example dns.corp.example\"]", "a domain and behind it"),
        ("records = [\"web A 10.0.0.1\"]", "\"web A 10.0.0.1\" is no record: it is `name SRV"),
        ("enabled = 1", "true or false is wanted, not an integer"),
        ("port = 0", "a number from 1 to 65535"),
    ];
    for (line, told) in wrong {
        assert!(problems(&format!("[dns]\n{line}\n"))[0].contains(told), "{line}");
    }
    let right = "[dns]\nzones = []\nsplit = [\"Corp.example 10.0.0.53 [fd00::1]:5353\"]\n";
    let dns = Config::parse(right).unwrap().dns;
    let servers = ["10.0.0.53:53", "[fd00::1]:5353"].map(|server| server.parse().unwrap()).to_vec();
    assert_eq!((dns.zones, dns.split), (Some(Vec::new()), vec![("corp.example".to_owned(), servers)]));
}
