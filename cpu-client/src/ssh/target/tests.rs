//! Tests of where a name on the command line leads.

use super::*;

fn options(host: &str) -> ConnectOptions<'_> {
    ConnectOptions {
        socket: SocketKind::Tcp,
        host,
        port: None,
        found: None,
        keys: &[],
        host_key: None,
        home: Path::new("/nosuch"),
        local_user: "ann",
        forward_agent: None,
    }
}

fn tcp_at(target: &Target) -> (&str, u16) {
    match &target.endpoint {
        Endpoint::Tcp { host, port, .. } => (host, *port),
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_command_line_wins_over_the_configuration() {
    let settings = || Settings {
        host_name: Some("%h.lab".into()),
        user: Some("root".into()),
        port: Some(2222),
        ..Settings::default()
    };
    let target = Target::new(&options("board"), |_| Ok(settings())).unwrap();
    assert_eq!(tcp_at(&target), ("board.lab", 2222));
    assert_eq!(target.user, "root");
    let target = Target::new(&options("bob@[board]:7"), |_| Ok(settings())).unwrap();
    assert_eq!((tcp_at(&target).1, target.user.as_str()), (7, "bob"));
    let port = Some("9");
    let with_flag = ConnectOptions {
        port,
        ..options("[board]:7")
    };
    assert_eq!(
        tcp_at(&Target::new(&with_flag, |_| Ok(settings())).unwrap()).1,
        9
    );
    for port in ["abc", "0", "65536", "-1"] {
        let options = ConnectOptions {
            port: Some(port),
            ..options("board")
        };
        let error = Target::new(&options, |_| Ok(settings())).err().unwrap();
        assert_eq!(
            format!("{error:#}"),
            format!("-sp: {port:?} is not a TCP port: write a number from 1 to 65535")
        );
    }
    let error = Target::new(&options("[board]:x"), |_| Ok(settings()));
    let error = format!("{:#}", error.err().unwrap());
    assert!(error.starts_with("\"board\": \"x\" is not"), "{error}");
    let target = Target::new(&options("board"), |_| Ok(Settings::default())).unwrap();
    assert_eq!(
        (tcp_at(&target).1, target.user.as_str()),
        (DEFAULT_PORT, "ann")
    );
}

#[test]
fn a_machine_that_was_found_keeps_its_name_and_is_not_accepted_unasked() {
    let found = ["192.168.77.7:17011".parse().unwrap()];
    let options = ConnectOptions {
        found: Some(&found),
        ..options("board7.local")
    };
    let accept = Checking {
        new: NewHost::Accept,
        changed_is_accepted: true,
    };
    let settings = || Settings {
        host_name: Some("elsewhere".into()),
        port: Some(22),
        proxy: Some(Proxy::Jump("gate".into())),
        checking: Some(accept),
        ..Settings::default()
    };
    let target = Target::new(&options, |_| Ok(settings())).unwrap();
    let endpoint = target.endpoint.to_string();
    assert_eq!(endpoint, "board7.local at 192.168.77.7:17011");
    let keys = format!("{:?}", target.host_keys);
    assert!(
        keys.contains("board7.local") && keys.contains("17011"),
        "{keys}"
    );
    assert!(
        keys.contains("Ask") && keys.contains("changed_is_accepted: false"),
        "{keys}"
    );
    assert!(target.host_keys.found);
    let named = ConnectOptions {
        found: None,
        ..options
    };
    let target = Target::new(&named, |_| Ok(settings())).unwrap();
    assert!(format!("{:?}", target.host_keys).contains("Accept"));
    assert!(!target.host_keys.found);
    let other = ConnectOptions {
        socket: SocketKind::Vsock,
        found: Some(&found),
        ..named
    };
    assert!(Target::new(&other, |_| Ok(settings())).is_err());
}

#[test]
fn proxies() {
    let endpoint = |proxy| {
        let read = |_: &Query<'_>| {
            Ok(Settings {
                proxy: Some(proxy),
                ..Settings::default()
            })
        };
        Target::new(&options("board"), read).unwrap().endpoint
    };
    let argv = |endpoint| match endpoint {
        Endpoint::Command { argv, .. } => argv.join(" "),
        other => panic!("{other:?}"),
    };
    assert_eq!(
        argv(endpoint(Proxy::Jump("a,bob@b:22".into()))),
        "ssh -W [board]:17010 -J a ssh://bob@b:22"
    );
    assert_eq!(
        argv(endpoint(Proxy::Command("nc %h %p".into()))),
        format!("{} -c exec nc board 17010", shell())
    );
    assert_eq!(
        argv(endpoint(Proxy::Jump("%r@%h.gate".into()))),
        "ssh -W [board]:17010 ssh://ann@board.gate"
    );
    assert!(matches!(endpoint(Proxy::None), Endpoint::Tcp { .. }));
}

#[test]
fn other_sockets() {
    let at = |socket, host, port| {
        let options = ConnectOptions {
            socket,
            port,
            ..options(host)
        };
        Target::new(&options, |_| Ok(Settings::default())).map(|target| target.endpoint)
    };
    let endpoint = at(SocketKind::Vsock, "3", None).unwrap();
    assert_eq!(
        endpoint,
        Endpoint::Vsock {
            cid: 3,
            port: 17010
        }
    );
    assert!(at(SocketKind::Vsock, "board", None).is_err());
    let endpoint = at(SocketKind::Unix, "board", Some("/run/cpud")).unwrap();
    assert_eq!(endpoint, Endpoint::Unix("/run/cpud".into()));
    assert!(at(SocketKind::Unix, "board", None).is_err());
    assert!(at(SocketKind::Tcp, "board", Some("0")).is_err());
}

#[test]
fn send_env_patterns() {
    let send_env = ["LC_*", "-LC_ALL", "LANG"].map(str::to_owned).to_vec();
    let read = |_: &Query<'_>| {
        Ok(Settings {
            send_env,
            ..Settings::default()
        })
    };
    let target = Target::new(&options("board"), read).unwrap();
    assert!(target.sends("LC_TIME") && target.sends("LANG"));
    assert!(!target.sends("LC_ALL") && !target.sends("HOME"));
}
