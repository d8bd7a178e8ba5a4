//! The plan of the placeholder Service.

use servicefence_crd::names;

use crate::mesh::Mesh;
use crate::plan::plans::PortsPlan;
use crate::plan::written::Written;
use crate::render::{self, Kind, Write};
use crate::settings::Settings;

/// The plan of the placeholder Service.
pub fn plan_ports(settings: &Settings, mesh: &Mesh, written: &Written) -> PortsPlan {
    let taken = written.ports.as_ref().is_some_and(|is| !is.ours);
    PortsPlan {
        write: ports_write(settings, mesh, written).filter(|_| !taken),
        taken,
    }
}

/// The write that makes the placeholder Service what it must be, taken or not.
pub fn ports_write(settings: &Settings, mesh: &Mesh, written: &Written) -> Option<Write> {
    let numbers = mesh.services.placeholder_ports();
    if numbers.is_empty() {
        // A Service must have a port, and a mesh without HTTP has no miss to recognise.
        let system = settings.system_namespace.clone();
        return written
            .ports
            .as_ref()
            .map(|_| Write::Delete(Kind::Service, system, names::PORTS.into()));
    }
    let object = render::ports(&settings.system_namespace, &numbers);
    let same = written
        .ports
        .as_ref()
        .is_some_and(|is| is.ours && is.fingerprint == object.fingerprint());
    (!same).then_some(Write::Apply(object))
}
