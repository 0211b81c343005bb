//! `vlan=` of the kernel's command line, as dracut.cmdline(7) has it:
//!
//! ```text
//! vlan=<name>:<device>     a link of this name for the frames of the device with the VLAN number at the end of the name
//! ```

use super::ip_arg::{self, is_device_name};

/// One `vlan=` parameter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct VlanArg {
    pub(super) name: String,
    /// 1 to 4094 (IEEE 802.1Q).
    pub(super) number: u16,
    /// The link whose frames have the number.
    pub(super) device: String,
}

/// Why a `vlan=` parameter is wrong.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Error {
    #[error("write NAME:DEVICE, such as eth0.5:eth0")]
    NoDevice,
    #[error(transparent)]
    Name(#[from] ip_arg::Error),
    #[error("{0:?} does not end with the number of a VLAN, 1 to 4094, such as eth0.5 and vlan5")]
    Number(String),
}

/// Parses the value of a `vlan=` parameter.
pub(super) fn parse(value: &str) -> Result<VlanArg, Error> {
    let (name, device) = value.split_once(':').ok_or(Error::NoDevice)?;
    for part in [name, device] {
        if !is_device_name(part) {
            return Err(ip_arg::Error::Device(part.into()).into());
        }
    }
    let begin = name.trim_end_matches(|c: char| c.is_ascii_digit()).len();
    let number = name[begin..].parse().ok();
    let number = number.filter(|number| (1..4095).contains(number));
    Ok(VlanArg {
        name: name.into(),
        number: number.ok_or_else(|| Error::Number(name.into()))?,
        device: device.into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn dracuts_names() {
        for (name, number) in [
            ("vlan0005", 5),
            ("vlan5", 5),
            ("eth0.0005", 5),
            ("eth0.5", 5),
            ("eth0.4094", 4094),
        ] {
            let arg = parse(&format!("{name}:eth0")).unwrap();
            assert_eq!((arg.name.as_str(), arg.number), (name, number));
            assert_eq!(arg.device, "eth0");
        }
        for wrong in [
            "",
            "eth0.5",
            "eth0.5:",
            ":eth0",
            "eth0.0:eth0",
            "eth0.4095:eth0",
            "eth0.99999999:eth0",
            "blue:eth0",
            "eth0.5:eth/0",
            "eth0.5:a:b c",
        ] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read(text in ".{0,40}") {
            if let Ok(arg) = parse(&text) {
                prop_assert!((1..4095).contains(&arg.number));
            }
        }
    }
}
