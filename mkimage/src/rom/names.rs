//! What files are called: well-known GUIDs, types, and the groups of drivers that Linux makes superfluous.

use uuid::{Uuid, uuid};

/// The UEFI Shell, in edk2 and in older firmware.
pub(super) const SHELLS: [Uuid; 2] = [
    uuid!("7c04a583-9e3e-4f1c-ad65-e05268d0b4d1"),
    uuid!("c57ad6b7-0515-40a8-9d21-551652854e37"),
];

/// The files with the order in which the first drivers and PEI modules are started (apriori files).
pub(super) const ORDERS: [Uuid; 2] = [
    uuid!("fc510ee7-ffdc-11d4-bd41-0080c73c8881"),
    uuid!("1b45cc0a-156a-428a-af62-49864da0e6e6"),
];

/// Names of GUIDs that have no section with a name.
const KNOWN: [(Uuid, &str); 9] = [
    (uuid!("8c8ce578-8a3d-4f1c-9935-896185c32dd3"), "FFS2"),
    (uuid!("5473c07a-3dcb-4dca-bd6f-1e9689e7349a"), "FFS3"),
    (uuid!("fff12b8d-7696-4c8b-a985-2747075b4f50"), "variables"),
    (ORDERS[0], "what is started first (DXE)"),
    (ORDERS[1], "what is started first (PEI)"),
    (
        uuid!("1ba0062e-c779-4582-8566-336ae8f78f09"),
        "reset vector",
    ),
    (
        uuid!("9e21fd93-9c72-4c15-8c4b-e77f1db2d792"),
        "main volumes",
    ),
    (SHELLS[0], "Shell"),
    (SHELLS[1], "Shell"),
];

/// The name of a well-known GUID.
pub(super) fn of(guid: Uuid) -> Option<&'static str> {
    let known = KNOWN.iter().find(|(known, _)| *known == guid);
    known.map(|(_, name)| *name)
}

/// What a type of file is.
pub(super) fn kind(kind: u8) -> &'static str {
    match kind {
        0x01 => "raw data",
        0x02 => "data",
        0x03 => "SEC core",
        0x04 => "PEI core",
        0x05 => "DXE core",
        0x06 => "PEI module",
        0x07 => "driver",
        0x08 => "PEI module and driver",
        0x09 => "application",
        0x0a => "SMM driver",
        0x0b => "volume",
        0x0c => "SMM and DXE driver",
        0x0d => "SMM core",
        0x0e => "standalone MM driver",
        0x0f => "standalone MM core",
        0xf0 => "pad",
        _ => "file of a type of its own",
    }
}

/// Whether the firmware may do without a file of this type.
pub(super) fn is_removable(kind: u8) -> bool {
    matches!(kind, 0x02 | 0x07 | 0x09 | 0x0a | 0x0c | 0x0e)
}

/// Whether what is in a file of this type is started without being asked for, when what it depends on is there.
pub(super) fn is_dispatched(kind: u8) -> bool {
    matches!(kind, 0x03..=0x08 | 0x0a | 0x0c..=0x0f)
}

/// Drivers that the firmware does not start without, with the names that edk2 gives them: those of the architectural protocols
/// (PI specification, volume 2, chapter 12), those that they need, and those of the bus that everything is on.
const NEEDED: [&str; 33] = [
    "BdsDxe",
    "CpuDxe",
    "ArmCpuDxe",
    "ArmGicDxe",
    "CapsuleRuntimeDxe",
    "Metronome",
    "MonotonicCounterRuntimeDxe",
    "PcRtc",
    "PcatRealTimeClockRuntimeDxe",
    "RealTimeClock",
    "ResetSystemRuntimeDxe",
    "ResetSystemDxe",
    "RuntimeDxe",
    "SecurityStubDxe",
    "LocalApicTimerDxe",
    "HpetTimerDxe",
    "8254TimerDxe",
    "TimerDxe",
    "ArmTimerDxe",
    "VariableRuntimeDxe",
    "VariableSmmRuntimeDxe",
    "VariableSmm",
    "FaultTolerantWriteDxe",
    "FvbServicesRuntimeDxe",
    "EmuVariableFvbRuntimeDxe",
    "WatchdogTimer",
    "PcdDxe",
    "DevicePathDxe",
    "CpuIo2Dxe",
    "PciHostBridgeDxe",
    "PciBusDxe",
    // The boot manager waits for it.
    "HiiDatabase",
    // OVMF's boot manager calls it without asking whether it is there.
    "S3SaveStateDxe",
];

/// Whether the firmware does not start without the file of this name.
pub(super) fn is_needed(name: &str) -> bool {
    NEEDED
        .iter()
        .any(|needed| needed.eq_ignore_ascii_case(name))
}

/// Drivers by what they are for, with the names that edk2 gives them.
const GROUPS: [(&str, &[&str]); 6] = [
    (
        "network",
        &[
            "DpcDxe",
            "SnpDxe",
            "VlanConfigDxe",
            "MnpDxe",
            "ArpDxe",
            "Dhcp4Dxe",
            "Dhcp6Dxe",
            "Ip4Dxe",
            "Ip4ConfigDxe",
            "Ip6Dxe",
            "Udp4Dxe",
            "Udp6Dxe",
            "Mtftp4Dxe",
            "Mtftp6Dxe",
            "TcpDxe",
            "Tcp4Dxe",
            "UefiPxeBcDxe",
            "UefiPxe4BcDxe",
            "TlsDxe",
            "TlsAuthConfigDxe",
            "DnsDxe",
            "HttpDxe",
            "HttpUtilitiesDxe",
            "HttpBootDxe",
            "IScsiDxe",
            "IScsi4Dxe",
            "VirtioNetDxe",
            "tftpDynamicCommand",
            "httpDynamicCommand",
            "WifiConnectionManagerDxe",
        ],
    ),
    (
        "usb",
        &[
            "UhciDxe",
            "EhciDxe",
            "XhciDxe",
            "UsbBusDxe",
            "UsbKbDxe",
            "UsbMouseDxe",
            "UsbMouseAbsolutePointerDxe",
            "UsbMassStorageDxe",
        ],
    ),
    (
        "disks",
        &[
            "SataController",
            "AtaAtapiPassThruDxe",
            "AtaBusDxe",
            "IdeBusDxe",
            "NvmExpressDxe",
            "ScsiBus",
            "ScsiDisk",
            "PvScsiDxe",
            "MptScsiDxe",
            "LsiScsiDxe",
            "VirtioBlkDxe",
            "VirtioScsiDxe",
            "VirtioFsDxe",
            "XenPvBlkDxe",
            "SdMmcPciHcDxe",
            "SdDxe",
            "EmmcDxe",
            "UfsPciHcDxe",
            "UfsPassThruDxe",
            "DiskIoDxe",
            "PartitionDxe",
            "RamDiskDxe",
            "Fat",
            "UdfDxe",
        ],
    ),
    (
        "setup",
        &[
            "UiApp",
            "SetupBrowser",
            "DisplayEngine",
            "SecureBootConfigDxe",
            "DriverHealthManagerDxe",
            "Tcg2ConfigDxe",
            "BootManagerMenuApp",
            "BootMaintenanceManagerUiApp",
        ],
    ),
    (
        "screen",
        &[
            "GraphicsConsoleDxe",
            "QemuVideoDxe",
            "QemuRamfbDxe",
            "VirtioGpuDxe",
            "LogoDxe",
            "BootGraphicsResourceTableDxe",
        ],
    ),
    (
        "tpm",
        &["TcgDxe", "Tcg2Dxe", "Tcg2ConfigDxe", "Tcg2PlatformDxe"],
    ),
];

/// The names of a group of drivers.
pub(super) fn group(name: &str) -> Option<&'static [&'static str]> {
    let group = GROUPS.iter().find(|(group, _)| *group == name);
    group.map(|(_, names)| *names)
}
