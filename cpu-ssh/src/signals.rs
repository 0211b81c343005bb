//! Signals by their SSH names (RFC 4254, section 6.10) and by number.

use nix::sys::signal::Signal;
use russh::Sig;

const NAMES: &[(Signal, Sig)] = &[
    (Signal::SIGABRT, Sig::ABRT),
    (Signal::SIGALRM, Sig::ALRM),
    (Signal::SIGFPE, Sig::FPE),
    (Signal::SIGHUP, Sig::HUP),
    (Signal::SIGILL, Sig::ILL),
    (Signal::SIGINT, Sig::INT),
    (Signal::SIGKILL, Sig::KILL),
    (Signal::SIGPIPE, Sig::PIPE),
    (Signal::SIGQUIT, Sig::QUIT),
    (Signal::SIGSEGV, Sig::SEGV),
    (Signal::SIGTERM, Sig::TERM),
    (Signal::SIGUSR1, Sig::USR1),
];

/// The SSH name of a signal. For signals that the RFC does not list it is the POSIX name without `SIG`, as in
/// OpenSSH.
pub fn name(signal: Signal) -> Sig {
    NAMES
        .iter()
        .find(|(number, _)| *number == signal)
        .map_or_else(
            || Sig::Custom(signal.as_str().trim_start_matches("SIG").to_owned()),
            |(_, name)| name.clone(),
        )
}

/// The signal with that name; `None` if this system has no such signal.
pub fn number(name: &Sig) -> Option<Signal> {
    match name {
        Sig::Custom(name) => format!("SIG{name}").parse().ok(),
        name => NAMES
            .iter()
            .find(|(_, entry)| format!("{entry:?}") == format!("{name:?}"))
            .map(|(number, _)| *number),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_signal_survives_the_wire() {
        for signal in Signal::iterator() {
            assert_eq!(number(&name(signal)), Some(signal), "{signal}");
        }
        assert_eq!(number(&Sig::Custom("NONSENSE".into())), None);
    }
}
