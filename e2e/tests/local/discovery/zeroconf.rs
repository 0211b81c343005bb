//! Other implementations: Debian's python3-zeroconf as browser and as responder.

use std::time::Duration;

use anyhow::{Result, ensure};
use e2e::lan::Lan;
use e2e::wait_until;

use super::fixture::{DesktopFixture, LanCpud, Script};
use crate::interop::TIMEOUT;

/// Looks for machines with Debian's package python3-zeroconf.
const BROWSER: &str = "
import time
from zeroconf import IPVersion, ServiceBrowser, Zeroconf
class Listener:
    def add_service(self, z, kind, name):
        info = z.get_service_info(kind, name)
        text = {key.decode(): value.decode() for key, value in info.properties.items()}
        print('add', name, info.server, info.port, *info.parsed_addresses(IPVersion.V4Only), text['os'], *sorted(text))
    def remove_service(self, z, kind, name):
        print('remove', name)
    def update_service(self, z, kind, name):
        pass
z = Zeroconf(interfaces=['192.168.77.9'])
ServiceBrowser(z, '_ncpu._tcp.local.', Listener())
print('ready')
time.sleep(1000)
";

/// Makes a machine known as u-root's cpud does.
const RESPONDER: &str = "
import socket, time
from zeroconf import ServiceInfo, Zeroconf
z = Zeroconf(interfaces=['192.168.77.7'])
kind = '_ncpu._tcp.local.'
text = {'arch': 'ARCH', 'os': 'linux', 'cores': '4', 'cpu.pcnt': '12.500000', 'tenants': '3',
        'mem.avail': '1073741824', 'mem.total': '2147483648'}
z.register_service(ServiceInfo(kind, 'Board 7.' + kind, port=17010, server='uroot7.local.', properties=text,
                               addresses=[socket.inet_aton('192.168.77.7')]))
print('ready')
time.sleep(1000)
";

pub(super) fn zeroconf() -> Result<()> {
    let lan = Lan::new()?;
    let host = lan.plug("192.168.77.7/24")?;
    let desktop = DesktopFixture::new(&lan)?;
    let browser = Script::start(&desktop.host, BROWSER)?;
    let machine = LanCpud::found(&host, "board7")?;
    std::thread::sleep(Duration::from_secs(5));
    drop(machine);
    std::thread::sleep(Duration::from_secs(3));
    let told = browser.end()?;
    let instance = "board7-cpud._ncpu._tcp.local.";
    let added = format!(
        "add {instance} board7.local. 17010 192.168.77.7 linux \
         arch cores cpu.pcnt load mem.avail mem.total os tenants\n"
    );
    ensure!(
        told.contains(&added) && told.contains(&format!("remove {instance}\n")),
        "python3-zeroconf: {told}"
    );

    let arch = cpu_proto::discovery::go_arch(std::env::consts::ARCH);
    let _responder = Script::start(&host, &RESPONDER.replace("ARCH", arch))?;
    let machine = LanCpud::start(&host, "board7", &[])?;
    let row = wait_until("the responder answers", TIMEOUT, || {
        Ok(desktop.table().ok().and_then(|mut rows| rows.pop()))
    })?;
    let expected = [
        "uroot7.local",
        "192.168.77.7",
        "17010",
        arch,
        "linux",
        "4",
        "1.0G/2.0G",
        "0.50",
        "3",
    ];
    ensure!(row == expected, "{row:?}");
    let key = machine.host_key().display().to_string();
    let by_name = "dnssd://Board+7._ncpu._tcp.local/";
    let name = desktop.prints(&["-hk", &key, by_name, "uname", "-n"])?;
    ensure!(name == "board7\n", "{name}");
    Ok(())
}
