//! Converts terminal modes between termios(3) and a `pty-req` (RFC 4254, section 8; RFC 8160 for `IUTF8`).

use nix::sys::termios::{
    ControlFlags, InputFlags, LocalFlags, OutputFlags, SpecialCharacterIndices as Cc, Termios,
};
use russh::Pty;

const CHARACTERS: &[(Pty, Cc)] = &[
    (Pty::VINTR, Cc::VINTR),
    (Pty::VQUIT, Cc::VQUIT),
    (Pty::VERASE, Cc::VERASE),
    (Pty::VKILL, Cc::VKILL),
    (Pty::VEOF, Cc::VEOF),
    (Pty::VEOL, Cc::VEOL),
    (Pty::VEOL2, Cc::VEOL2),
    (Pty::VSTART, Cc::VSTART),
    (Pty::VSTOP, Cc::VSTOP),
    (Pty::VSUSP, Cc::VSUSP),
    (Pty::VREPRINT, Cc::VREPRINT),
    (Pty::VWERASE, Cc::VWERASE),
    (Pty::VLNEXT, Cc::VLNEXT),
    (Pty::VDISCARD, Cc::VDISCARD),
];

const INPUT: &[(Pty, InputFlags)] = &[
    (Pty::IGNPAR, InputFlags::IGNPAR),
    (Pty::PARMRK, InputFlags::PARMRK),
    (Pty::INPCK, InputFlags::INPCK),
    (Pty::ISTRIP, InputFlags::ISTRIP),
    (Pty::INLCR, InputFlags::INLCR),
    (Pty::IGNCR, InputFlags::IGNCR),
    (Pty::ICRNL, InputFlags::ICRNL),
    (Pty::IXON, InputFlags::IXON),
    (Pty::IXANY, InputFlags::IXANY),
    (Pty::IXOFF, InputFlags::IXOFF),
    (Pty::IMAXBEL, InputFlags::IMAXBEL),
    (Pty::IUTF8, InputFlags::IUTF8),
];

const LOCAL: &[(Pty, LocalFlags)] = &[
    (Pty::ISIG, LocalFlags::ISIG),
    (Pty::ICANON, LocalFlags::ICANON),
    (Pty::ECHO, LocalFlags::ECHO),
    (Pty::ECHOE, LocalFlags::ECHOE),
    (Pty::ECHOK, LocalFlags::ECHOK),
    (Pty::ECHONL, LocalFlags::ECHONL),
    (Pty::NOFLSH, LocalFlags::NOFLSH),
    (Pty::TOSTOP, LocalFlags::TOSTOP),
    (Pty::IEXTEN, LocalFlags::IEXTEN),
    (Pty::ECHOCTL, LocalFlags::ECHOCTL),
    (Pty::ECHOKE, LocalFlags::ECHOKE),
    (Pty::PENDIN, LocalFlags::PENDIN),
];

const OUTPUT: &[(Pty, OutputFlags)] = &[
    (Pty::OPOST, OutputFlags::OPOST),
    (Pty::ONLCR, OutputFlags::ONLCR),
    (Pty::OCRNL, OutputFlags::OCRNL),
    (Pty::ONOCR, OutputFlags::ONOCR),
    (Pty::ONLRET, OutputFlags::ONLRET),
];

const CONTROL: &[(Pty, ControlFlags)] = &[
    (Pty::CS7, ControlFlags::CS7),
    (Pty::CS8, ControlFlags::CS8),
    (Pty::PARENB, ControlFlags::PARENB),
    (Pty::PARODD, ControlFlags::PARODD),
];

/// The value of a disabled control character on the wire; in termios it is `_POSIX_VDISABLE` (0).
const DISABLED: u32 = 255;

/// The modes of a terminal, for a `pty-req`.
pub fn encode(termios: &Termios) -> Vec<(Pty, u32)> {
    let characters = CHARACTERS.iter().map(|&(name, index)| {
        let value = termios.control_chars[index as usize];
        let value = if value == nix::sys::termios::_POSIX_VDISABLE {
            DISABLED
        } else {
            value.into()
        };
        (name, value)
    });
    characters
        .chain(flags(INPUT, |f| termios.input_flags.contains(f)))
        .chain(flags(LOCAL, |f| termios.local_flags.contains(f)))
        .chain(flags(OUTPUT, |f| termios.output_flags.contains(f)))
        .chain(flags(CONTROL, |f| termios.control_flags.contains(f)))
        .collect()
}

fn flags<F: Copy>(
    table: &'static [(Pty, F)],
    is_set: impl Fn(F) -> bool,
) -> impl Iterator<Item = (Pty, u32)> {
    table
        .iter()
        .map(move |&(name, flag)| (name, u32::from(is_set(flag))))
}

/// Sets the modes that a `pty-req` names and leaves the others alone. Speeds mean nothing on a pty.
pub fn apply(modes: &[(Pty, u32)], termios: &mut Termios) {
    for &(name, value) in modes {
        if let Some(index) = find(CHARACTERS, name) {
            termios.control_chars[index as usize] = match u8::try_from(value) {
                Ok(value) if value != u8::MAX => value,
                _ => nix::sys::termios::_POSIX_VDISABLE,
            };
        }
        let on = value != 0;
        if let Some(flag) = find(INPUT, name) {
            termios.input_flags.set(flag, on);
        }
        if let Some(flag) = find(LOCAL, name) {
            termios.local_flags.set(flag, on);
        }
        if let Some(flag) = find(OUTPUT, name) {
            termios.output_flags.set(flag, on);
        }
        // The two character sizes share the bits of CSIZE, so only the one that is set means anything.
        match find(CONTROL, name) {
            Some(size @ (ControlFlags::CS7 | ControlFlags::CS8)) if on => {
                termios.control_flags.remove(ControlFlags::CSIZE);
                termios.control_flags.insert(size);
            }
            Some(ControlFlags::CS7 | ControlFlags::CS8) | None => {}
            Some(flag) => termios.control_flags.set(flag, on),
        }
    }
}

fn find<T: Copy>(table: &[(Pty, T)], name: Pty) -> Option<T> {
    table
        .iter()
        .find(|(entry, _)| *entry as u8 == name as u8)
        .map(|(_, value)| *value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::pty::openpty;
    use nix::sys::termios::tcgetattr;

    #[test]
    fn modes_survive_the_wire() {
        let from = openpty(None, None).unwrap();
        let mut original = tcgetattr(&from.slave).unwrap();
        original.local_flags.remove(LocalFlags::ECHO);
        original.input_flags.insert(InputFlags::IUTF8);
        original.control_chars[Cc::VINTR as usize] = 0x18;
        original.control_chars[Cc::VSUSP as usize] = 0;
        let mut copy = tcgetattr(&from.slave).unwrap();
        apply(&encode(&original), &mut copy);
        assert!(!copy.local_flags.contains(LocalFlags::ECHO));
        assert_eq!(copy, original);
    }

    #[test]
    fn unknown_and_absurd_values_are_harmless() {
        let pty = openpty(None, None).unwrap();
        let before = tcgetattr(&pty.slave).unwrap();
        let mut after = before.clone();
        apply(
            &[(Pty::TTY_OP_ISPEED, 1), (Pty::VSTATUS, 3), (Pty::CS7, 0)],
            &mut after,
        );
        assert_eq!(after, before);
        apply(&[(Pty::VEOF, 70_000)], &mut after);
        assert_eq!(after.control_chars[Cc::VEOF as usize], 0);
    }
}
