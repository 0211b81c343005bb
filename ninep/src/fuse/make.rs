//! What makes a file: its group and owner, and the look-up that tells the kernel which it is.

use super::abi::{Fields, InHeader, Opcode};
use super::nodes::Location;
use super::request::{clone, name, open_flags};
use super::{FuseFront, FuseStep};
use crate::errno::Errno;
use crate::fs::OpenFlags;
use crate::msg::{Attr, Request, SetAttr};
use crate::wire::{Name, Str};

/// The set-group-ID bit.
const S_ISGID: u32 = 0o2000;

impl FuseFront {
    /// The group of a new file in a directory, and to whom it is given afterwards.
    fn new_owner(&self, header: &InHeader) -> Result<(u32, Option<(u32, u32)>), Errno> {
        let dir = &self.node(header.node)?.attr;
        let gid = match dir.mode & S_ISGID {
            0 => header.gid,
            _ => dir.gid,
        };
        let owner = self.options.own && header.uid != 0;
        Ok((gid, owner.then_some((header.uid, gid))))
    }

    pub(super) fn make(
        &mut self,
        operation: Opcode,
        header: &InHeader,
        mut fields: Fields<'_>,
    ) -> Result<(), Errno> {
        let dfid = self.node_fid(header.node)?;
        let (gid, owner) = self.new_owner(header)?;
        let step = |name: Name<'_>, owner| FuseStep::Make {
            place: Location {
                dir: header.node,
                name: name.bytes().into(),
            },
            owner,
        };
        let (step, request) = match operation {
            Opcode::Mkdir => {
                let (mode, _umask) = (fields.u32(), fields.u32());
                let name = name(fields.string())?;
                let request = Request::Mkdir {
                    dfid,
                    name,
                    mode,
                    gid,
                };
                (step(name, owner), request)
            }
            Opcode::Mknod => {
                let (mode, device) = (fields.u32(), fields.u32());
                let (_umask, _) = (fields.u32(), fields.u32());
                let name = name(fields.string())?;
                // `new_decode_dev` of the kernel.
                let major = (device & 0xf_ff00) >> 8;
                let minor = (device & 0xff) | ((device >> 12) & 0xf_ff00);
                let request = Request::Mknod {
                    dfid,
                    name,
                    mode,
                    major,
                    minor,
                    gid,
                };
                (step(name, owner), request)
            }
            Opcode::Link => {
                let from = fields.u64();
                let fid = self.node_fid(from)?;
                let name = name(fields.string())?;
                (step(name, None), Request::Link { dfid, fid, name })
            }
            _ => {
                let name = name(fields.string())?;
                let target = Str::new(fields.string()).ok_or(Errno::ENAMETOOLONG)?;
                let request = Request::Symlink {
                    dfid,
                    name,
                    target,
                    gid,
                };
                (step(name, owner), request)
            }
        };
        self.send(header.unique, step, &request);
        Ok(())
    }

    pub(super) fn create(
        &mut self,
        header: &InHeader,
        mut fields: Fields<'_>,
    ) -> Result<(), Errno> {
        let (flags, mode) = (fields.u32(), fields.u32());
        let (_umask, _) = (fields.u32(), fields.u32());
        let (gid, owner) = self.new_owner(header)?;
        let (from, fid) = (self.node_fid(header.node)?, self.fids.take());
        let step = FuseStep::CreateClone {
            place: Location {
                dir: header.node,
                name: fields.string().into(),
            },
            fid,
            flags: open_flags(flags, false) | flags & (OpenFlags::CREAT | OpenFlags::EXCL),
            mode,
            gid,
            owner,
        };
        self.send(header.unique, step, &clone(from, fid));
        Ok(())
    }

    /// The number of the file that has been found with this fid.
    pub(super) fn enter(&mut self, fid: u32, attr: Attr, place: Location) -> u64 {
        let (node, unneeded) = self.nodes.enter(fid, attr, place);
        if let Some(unneeded) = unneeded {
            self.clunk(0, unneeded);
        }
        self.drop_idle();
        node
    }

    pub(super) fn entry_attr(&mut self, unique: u64, place: Location, fid: u32) {
        let mask = Attr::ALL;
        let step = FuseStep::EntryAttr { place, fid };
        self.send(unique, step, &Request::Getattr { fid, mask });
    }

    pub(super) fn create_attr(
        &mut self,
        unique: u64,
        place: Location,
        (open, fid, path): (u32, u32, u64),
    ) {
        let mask = Attr::ALL;
        let step = FuseStep::CreateAttr {
            place,
            open,
            fid,
            path,
        };
        self.send(unique, step, &Request::Getattr { fid, mask });
    }

    /// Gives a new file to who has made it.
    pub(super) fn own(&mut self, unique: u64, step: FuseStep, fid: u32, (uid, gid): (u32, u32)) {
        let attr = SetAttr {
            valid: SetAttr::UID | SetAttr::GID,
            uid,
            gid,
            ..SetAttr::default()
        };
        self.send(unique, step, &Request::Setattr { fid, attr });
    }
}
